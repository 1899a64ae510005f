// What lets one formula serve the host's vector loops and CUDA kernels alike.
#pragma once

#if defined(__CUDACC__)
#define SIVAE_HD __host__ __device__ __forceinline__
#define SIVAE_HD_MEMBER __host__ __device__ __forceinline__
#define SIVAE_UNROLL _Pragma("unroll")
#else
// Forced, so that every copy is compiled for the instruction set of the kernel around it and none is shared between
// translation units that are built for different ones.
#define SIVAE_HD static inline __attribute__((always_inline))
#define SIVAE_HD_MEMBER inline __attribute__((always_inline))
#define SIVAE_UNROLL _Pragma("GCC unroll 32")
#endif
