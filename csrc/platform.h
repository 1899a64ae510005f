// Macros that let a formula be used in the host's vector loops and in CUDA kernels.
#pragma once

#if defined(__CUDACC__)
#define SIVAE_HD __host__ __device__ __forceinline__
#define SIVAE_HD_MEMBER __host__ __device__ __forceinline__
#define SIVAE_UNROLL _Pragma("unroll")
#else
// Always inlined, so that every copy is compiled for the instruction set of its kernel and none is shared with a source
// that is compiled for another one.
#define SIVAE_HD static inline __attribute__((always_inline))
#define SIVAE_HD_MEMBER inline __attribute__((always_inline))
#define SIVAE_UNROLL _Pragma("GCC unroll 32")
#endif
