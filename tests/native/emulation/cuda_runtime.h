// Replaces CUDA's header of this name: kernel sources compile as C++20 with it and run on the CPU. It has only the parts
// of CUDA that these kernels use; kernels are launched through cudaLaunchKernelEx, and shared memory is static.
//
// A grid runs on one thread of the host, block by block. Every CUDA thread is a fiber, and fibers are switched only at
// barriers and warp operations (emulator.cpp). SIVAE_EMULATION_ORDER (forward, reverse, random, random:SEED) is the order
// of the fibers of a block, and of the blocks. Where a GPU would hang, or the result would be undefined, the process ends
// with a message.
//
// Arithmetic is the host's, without contraction to fused multiply-adds unless the compiler's flags allow it.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <concepts>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
// In one section, so that the emulator finds all of it and can overwrite it before a block starts.
#define __shared__ static __attribute__((section("sivae_shared")))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

// Vector types, aligned as on the device, where an access through a less aligned pointer is an error.
#define SIVAE_EMULATED_VECTORS(T, name, align2, align4)                                            \
  struct alignas(align2) name##2 { T x, y; };                                                      \
  struct name##3 { T x, y, z; };                                                                   \
  struct alignas(align4) name##4 { T x, y, z, w; };                                                \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                       \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                               \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIVAE_EMULATED_VECTORS(unsigned short, ushort, 4, 8)
SIVAE_EMULATED_VECTORS(int, int, 8, 16)
SIVAE_EMULATED_VECTORS(unsigned, uint, 8, 16)
SIVAE_EMULATED_VECTORS(float, float, 8, 16)
SIVAE_EMULATED_VECTORS(double, double, 16, 16)
SIVAE_EMULATED_VECTORS(long long, longlong, 16, 16)
SIVAE_EMULATED_VECTORS(unsigned long long, ulonglong, 16, 16)
#undef SIVAE_EMULATED_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// The runtime API.

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
};
enum cudaLaunchAttributeID {
  cudaLaunchAttributeIgnore = 0,
  cudaLaunchAttributeProgrammaticStreamSerialization = 6,
};
union cudaLaunchAttributeValue {
  char pad[64];
  int programmaticStreamSerializationAllowed;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

cudaError_t cudaGetLastError();   // and forgets it
cudaError_t cudaPeekAtLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);  // an H100's
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream = nullptr);

namespace sivae_emulation {

// A position in a kernel's source, for messages and to distinguish barriers.
struct Site {
  const char* file;
  int line;
};

enum class WarpOp { kSync, kBallot, kAny, kAll, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor };

cudaError_t launch(const cudaLaunchConfig_t& config, const char* kernel, void (*run)(const void*), const void* closure);
void barrier(Site site);
// Waits for the lanes of `mask`, exchanges `value` and returns this lane's result.
uint64_t warp(WarpOp op, unsigned mask, uint64_t value, int argument, int width, Site site);
[[noreturn]] void fail(const char* what, Site site);

template <class T>
concept Shuffled = std::same_as<T, int> || std::same_as<T, unsigned> || std::same_as<T, long> ||
                   std::same_as<T, unsigned long> || std::same_as<T, long long> ||
                   std::same_as<T, unsigned long long> || std::same_as<T, float> || std::same_as<T, double>;

template <Shuffled T>
T shuffle(WarpOp op, unsigned mask, T value, int argument, int width, Site site) {
  uint64_t word = 0;
  memcpy(&word, &value, sizeof value);
  word = warp(op, mask, word, argument, width, site);
  memcpy(&value, &word, sizeof value);
  return value;
}

template <class T>
const T& aligned(const T* pointer, Site site) {
  if (reinterpret_cast<uintptr_t>(pointer) % alignof(T) != 0) fail("a misaligned address is accessed", site);
  return *pointer;
}

template <class To, class From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace sivae_emulation

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "a kernel's parameters are copied byte by byte");
  // Every thread gets its own copy of the parameters, converted once.
  const char* const name = __PRETTY_FUNCTION__;
  return [&](Parameters... converted) {
    const auto call = [&] { kernel(converted...); };
    return sivae_emulation::launch(
        *config, name, [](const void* closure) { (*static_cast<decltype(&call)>(closure))(); }, &call);
  }(std::forward<Arguments>(arguments)...);
}

// Functions for kernels. The last parameter is the place of the call, and is never passed.
#define SIVAE_HERE sivae_emulation::Site site = {__builtin_FILE(), __builtin_LINE()}

inline void __syncthreads(SIVAE_HERE) { sivae_emulation::barrier(site); }
inline void __syncwarp(unsigned mask = 0xffffffffu, SIVAE_HERE) {
  sivae_emulation::warp(sivae_emulation::WarpOp::kSync, mask, 0, 0, 32, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIVAE_HERE) {
  return static_cast<unsigned>(
      sivae_emulation::warp(sivae_emulation::WarpOp::kBallot, mask, predicate != 0, 0, 32, site));
}
inline int __any_sync(unsigned mask, int predicate, SIVAE_HERE) {
  return static_cast<int>(sivae_emulation::warp(sivae_emulation::WarpOp::kAny, mask, predicate != 0, 0, 32, site));
}
inline int __all_sync(unsigned mask, int predicate, SIVAE_HERE) {
  return static_cast<int>(sivae_emulation::warp(sivae_emulation::WarpOp::kAll, mask, predicate != 0, 0, 32, site));
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, SIVAE_HERE) {
  return sivae_emulation::shuffle(sivae_emulation::WarpOp::kShuffle, mask, value, lane, width, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIVAE_HERE) {
  return sivae_emulation::shuffle(sivae_emulation::WarpOp::kShuffleUp, mask, value, static_cast<int>(delta), width,
                                  site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIVAE_HERE) {
  return sivae_emulation::shuffle(sivae_emulation::WarpOp::kShuffleDown, mask, value, static_cast<int>(delta), width,
                                  site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, SIVAE_HERE) {
  return sivae_emulation::shuffle(sivae_emulation::WarpOp::kShuffleXor, mask, value, lane_mask, width, site);
}

template <class T>
T __ldg(const T* from, SIVAE_HERE) { return sivae_emulation::aligned(from, site); }
template <class T>
T __ldcs(const T* from, SIVAE_HERE) { return sivae_emulation::aligned(from, site); }
template <class T>
T __ldcg(const T* from, SIVAE_HERE) { return sivae_emulation::aligned(from, site); }
template <class T>
void __stcs(T* to, std::type_identity_t<T> value, SIVAE_HERE) {
  const_cast<T&>(sivae_emulation::aligned(to, site)) = value;
}
template <class T>
void __stcg(T* to, std::type_identity_t<T> value, SIVAE_HERE) {
  const_cast<T&>(sivae_emulation::aligned(to, site)) = value;
}
#undef SIVAE_HERE

// Fibers are not switched here, so plain accesses are atomic and in order.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline unsigned atomicAdd(unsigned* to, unsigned value) { return std::exchange(*to, *to + value); }
inline int atomicAdd(int* to, int value) { return std::exchange(*to, *to + value); }
inline unsigned atomicInc(unsigned* to, unsigned limit) { return std::exchange(*to, *to >= limit ? 0 : *to + 1); }

// Kernels run one after the other.
inline void cudaGridDependencySynchronize() {}
inline void cudaTriggerProgrammaticLaunchCompletion() {}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline unsigned __float_as_uint(float x) { return sivae_emulation::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return sivae_emulation::bit_cast<float>(x); }
inline int __float_as_int(float x) { return sivae_emulation::bit_cast<int>(x); }
inline float __int_as_float(int x) { return sivae_emulation::bit_cast<float>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T>
  requires std::is_arithmetic_v<T>
T min(T a, T b) { return b < a ? b : a; }
template <class T>
  requires std::is_arithmetic_v<T>
T max(T a, T b) { return a < b ? b : a; }
