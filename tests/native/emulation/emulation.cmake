# Builds _C for tests: the CPU runs the CUDA kernels as the implementations of the ops for CPU tensors. It should compile
# quickly. SIVAE_EMULATION_FLAGS are more flags for the kernels, such as sanitizers.
set(CMAKE_CXX_FLAGS_RELEASE -DNDEBUG)
set(EMULATION tests/native/emulation)
add_library(emulated_kernels OBJECT ${CUDA_SOURCES} ${EMULATION}/emulator.cpp)
set_source_files_properties(${CUDA_SOURCES} PROPERTIES
  LANGUAGE CXX
  COMPILE_OPTIONS "-include;cuda_runtime.h") # as nvcc does
target_include_directories(emulated_kernels PRIVATE ${EMULATION})
# With nvcc, device code may read memory through pointers of any type.
target_compile_options(emulated_kernels PRIVATE
  -O1 -fno-strict-aliasing -Wall -Wextra -Wno-unknown-pragmas ${SIVAE_EMULATION_FLAGS})
target_sources(_C PRIVATE ${CUDA_OPS} ${EMULATION}/no_cpu_kernels.cpp)
target_compile_definitions(_C PRIVATE SIVAE_CUDA_EMULATED)
target_link_libraries(_C PRIVATE emulated_kernels)
target_link_options(_C PRIVATE ${SIVAE_EMULATION_FLAGS})
# The emulator needs no sanitizer, and every test waits for it.
set_source_files_properties(${EMULATION}/emulator.cpp PROPERTIES COMPILE_OPTIONS "-O2;-fno-sanitize=undefined")
# torch's headers are parsed once for several sources.
set_target_properties(_C PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
set_source_files_properties(csrc/autograd.cpp csrc/autograd_chamfer.cpp csrc/autograd_group_norm.cpp
  csrc/autograd_mixture.cpp csrc/autograd_styled_norm.cpp PROPERTIES UNITY_GROUP autograd)
set_source_files_properties(csrc/operands.cpp ${CUDA_OPS} PROPERTIES UNITY_GROUP ops)
