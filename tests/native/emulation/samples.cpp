// Correct kernels and kernels with mistakes, for tests/native/test_emulation.py, which runs one per call, by name.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace {

constexpr unsigned kAll = 0xffffffffu;

template <class... Parameters, class... Arguments>
cudaError_t run(dim3 grid, dim3 block, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <class T>
void print(const std::vector<T>& values) {
  for (const T value : values) printf("%.17g ", static_cast<double>(value));
  printf("\n");
}

// Warps.

template <class T>
__global__ void shuffles(T* out, int argument, int width) {
  const int lane = static_cast<int>(threadIdx.x);
  const T mine = static_cast<T>(lane) + static_cast<T>(1) / static_cast<T>(4);
  out[lane] = __shfl_sync(kAll, mine, argument, width);
  out[32 + lane] = __shfl_up_sync(kAll, mine, argument, width);
  out[64 + lane] = __shfl_down_sync(kAll, mine, argument, width);
  out[96 + lane] = __shfl_xor_sync(kAll, mine, argument, width);
}

__global__ void warp_sums(int64_t* out, int width) {
  int64_t sum = (int64_t{1} << 40) + blockIdx.x * 1000 + threadIdx.x;
  for (int distance = width / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAll, sum, distance, width);
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

__global__ void votes(unsigned* out) {
  const unsigned lane = threadIdx.x;
  const unsigned mine = lane < 20 ? 0x000fffffu : 0xfff00000u;  // each part of the warp by itself
  out[4 * lane] = __ballot_sync(mine, lane % 3 == 0);
  out[4 * lane + 1] = static_cast<unsigned>(__any_sync(mine, lane == 7));
  out[4 * lane + 2] = static_cast<unsigned>(__all_sync(mine, lane >= 20));
  __syncwarp();
  out[4 * lane + 3] = lane < 20 ? __shfl_sync(mine, lane, 19) : __shfl_down_sync(mine, lane, 1);
}

// Blocks.

// The sum of n numbers with blocks of any size; the last block to finish adds the sums of the others.
__global__ void block_sums(const float* values, int n, float* partial, unsigned* finished, float* out) {
  __shared__ float warp_sums[32];
  __shared__ bool last;
  const int thread = static_cast<int>(threadIdx.x + blockDim.x * threadIdx.y);
  const int threads = static_cast<int>(blockDim.x * blockDim.y), blocks = static_cast<int>(gridDim.x * gridDim.y);
  const int block = static_cast<int>(blockIdx.x + gridDim.x * blockIdx.y);
  const auto over_block = [&](float sum) {
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_down_sync(kAll, sum, distance);
    if (thread % 32 == 0) warp_sums[thread / 32] = sum;
    __syncthreads();
    sum = thread < threads / 32 ? warp_sums[thread] : 0.0f;
    if (thread < 32) {
      for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_down_sync(kAll, sum, distance);
    }
    return sum;
  };
  float sum = 0.0f;
  for (int i = block * threads + thread; i < n; i += blocks * threads) sum += __ldg(values + i);
  sum = over_block(sum);
  if (thread == 0) {
    partial[block] = sum;
    __threadfence();
    last = atomicAdd(finished, 1u) == static_cast<unsigned>(blocks) - 1;
  }
  __syncthreads();
  if (!last) return;
  sum = 0.0f;
  for (int i = thread; i < blocks; i += threads) sum += partial[i];
  __syncthreads();  // warp_sums is written again
  sum = over_block(sum);
  if (thread == 0) *out = sum;
}

__global__ void early_exit(int* out, int threads_left) {
  __shared__ int room[256];
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= threads_left) return;
  room[thread] = thread;
  __syncthreads();
  out[thread] = room[threads_left - 1 - thread];
}

__global__ void indices(uint3* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  uint3* const at = out + 2 * (block * blockDim.x * blockDim.y * blockDim.z + thread);
  at[0] = blockIdx;
  at[1] = threadIdx;
}

// Each thread reads the value that the thread before it wrote.
__global__ void neighbours(int* out, bool with_barrier) {
  __shared__ int room[64];
  room[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (with_barrier) __syncthreads();
  out[threadIdx.x] = threadIdx.x == 0 ? 0 : room[threadIdx.x - 1];
}

__global__ void leftovers(float* out) {
  __shared__ float room[8];
  out[blockIdx.x] = room[3];
  room[3] = 1.0f;
}

__global__ void visits(int* out, unsigned* count) {
  out[atomicAdd(count, 1u)] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

// Mistakes.

__global__ void divergent_barrier() {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __shfl_xor_sync(kAll, 1, 1);
  }
}

__global__ void different_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void exited_lane(int* out) {
  if (threadIdx.x == 5) return;
  out[threadIdx.x] = __shfl_xor_sync(kAll, 1, 1);
}

__global__ void unnamed_lane(int* out) { out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1, 1); }

__global__ void unnamed_source(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1, 16);
}

__global__ void misaligned(const float* in, float4* out) { *out = __ldg(reinterpret_cast<const float4*>(in + 1)); }

__global__ void nothing() {}

// Every half number to float; and to half, floats around every border between two halves.
template <class Half, class ToFloat, class FromFloat>
void write_conversions(ToFloat to_float, FromFloat from_float) {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    Half x;
    const auto narrow = static_cast<unsigned short>(bits);
    memcpy(&x, &narrow, sizeof x);
    const float wide = to_float(x);
    fwrite(&wide, sizeof wide, 1, stdout);
  }
  float wide;
  while (fread(&wide, sizeof wide, 1, stdin) == 1) {
    const Half x = from_float(wide);
    fwrite(&x, sizeof x, 1, stdout);
  }
}

const std::map<std::string, std::function<void()>> kSamples{
    {"shuffles",
     [] {
       for (int width = 1; width <= 32; width *= 2) {
         for (const int argument : {0, 1, 3, 8, 16, 31}) {
           std::vector<double> doubles(128);
           std::vector<float> floats(128);
           std::vector<int> ints(128);
           run(1, 32, shuffles<double>, doubles.data(), argument, width);
           run(1, 32, shuffles<float>, floats.data(), argument, width);
           run(1, 32, shuffles<int>, ints.data(), argument, width);
           print(doubles);
           print(floats);
           print(ints);
         }
       }
     }},
    {"warp_sums",
     [] {
       for (int width = 1; width <= 32; width *= 2) {
         std::vector<int64_t> sums(3 * 96);
         run(3, 96, warp_sums, sums.data(), width);
         print(sums);
       }
     }},
    {"votes",
     [] {
       std::vector<unsigned> out(128);
       run(1, 32, votes, out.data());
       print(out);
     }},
    {"block_sums",
     [] {
       std::vector<float> values(100'000), partial(35), out(1);
       for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7);
       for (const dim3 block : {dim3(32), dim3(256), dim3(32, 4), dim3(1024)}) {
         unsigned finished = 0;
         run(dim3(7, 5), block, block_sums, values.data(), static_cast<int>(values.size()), partial.data(), &finished,
             out.data());
         print(out);
       }
     }},
    {"early_exit",
     [] {
       std::vector<int> out(256, -1);
       run(1, 256, early_exit, out.data(), 77);
       print(out);
     }},
    {"indices",
     [] {
       const dim3 grid(3, 2, 2), block(4, 3, 2);
       std::vector<uint3> out(2 * 12 * 24);
       run(grid, block, indices, out.data());
       std::vector<unsigned> flat;
       for (const uint3& i : out) flat.insert(flat.end(), {i.x, i.y, i.z});
       print(flat);
     }},
    {"neighbours",
     [] {
       std::vector<int> out(64);
       for (const bool with_barrier : {false, true}) {
         run(1, 64, neighbours, out.data(), with_barrier);
         print(out);
       }
     }},
    {"leftovers",
     [] {
       std::vector<float> out(3);
       run(3, 1, leftovers, out.data());
       print(out);
     }},
    {"visits",
     [] {
       std::vector<int> out(16);
       unsigned count = 0;
       run(4, 4, visits, out.data(), &count);
       print(out);
     }},
    {"launches",
     [] {
       const dim3 ones(1);
       print(std::vector<int>{run(ones, 1024, nothing), run(ones, 1025, nothing), run(ones, dim3(32, 33), nothing),
                              run(ones, dim3(1, 1, 65), nothing), run(0, 32, nothing), run(ones, 0, nothing),
                              run(dim3(1, 65536), 1, nothing), run(0x80000000u, 1, nothing)});
       print(std::vector<int>{cudaPeekAtLastError(), cudaGetLastError(), cudaGetLastError()});
     }},
    {"divergent_barrier", [] { run(2, 64, divergent_barrier); }},
    {"different_barriers", [] { run(2, 64, different_barriers); }},
    {"exited_lane", [] { run(1, 32, exited_lane, std::vector<int>(32).data()); }},
    {"missing_lanes", [] { run(1, 16, exited_lane, std::vector<int>(32).data()); }},
    {"unnamed_lane", [] { run(1, 32, unnamed_lane, std::vector<int>(32).data()); }},
    {"unnamed_source", [] { run(1, 32, unnamed_source, std::vector<int>(32).data()); }},
    {"misaligned",
     [] {
       alignas(16) float in[8] = {};
       float4 out;
       run(1, 1, misaligned, in, &out);
     }},
    {"float16", [] { write_conversions<__half>(__half2float, __float2half_rn); }},
    {"bfloat16", [] { write_conversions<__nv_bfloat16>(__bfloat162float, __float2bfloat16_rn); }},
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 2 || !kSamples.contains(arguments[1])) return 2;
  kSamples.at(arguments[1])();
  return 0;
}
