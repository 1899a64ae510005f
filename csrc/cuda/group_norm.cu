// Group norm with an activation: sums of each channel, what they make of a group, and the result; without atomics.
#include <algorithm>
#include <cmath>

#include "../group_norm.h"
#include "../scalar_math.h"
#include "group_norm_launch.h"
#include "moments.cuh"
#include "storage.cuh"
#include "teams.cuh"

namespace sivae::cuda {
namespace {

constexpr int kAtOnce = 4;  // pixels that a thread loads before it uses the first of them

int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A thread's part of the work: pixels first, first + step, ... below last, of one channel of a sample.
struct Lane {
  int64_t sample, split, channel, first, last;
  int pixel_lane, step, slot;  // slot: its place in shared memory, where the lanes of a channel are neighbors
  bool own;                    // the channel exists
  int64_t begin;               // the first pixel of the block
};

__device__ __forceinline__ Lane lane_of(const GroupNormCut& cut) {
  Lane lane;
  const int64_t unit = cut.by_channel_tiles.quotient(blockIdx.x), tile = blockIdx.x - unit * cut.channel_tiles;
  lane.sample = cut.by_splits.quotient(unit);
  lane.split = unit - lane.sample * cut.splits;
  const int thread = static_cast<int>(threadIdx.x), pixels_log2 = kLanesLog2 - cut.channels_log2;
  const int channel_lane = cut.channels_first ? thread & ((1 << cut.channels_log2) - 1) : thread >> pixels_log2;
  lane.pixel_lane = cut.channels_first ? thread >> cut.channels_log2 : thread & ((1 << pixels_log2) - 1);
  lane.step = 1 << pixels_log2;
  lane.slot = (channel_lane << pixels_log2) + lane.pixel_lane;
  lane.channel = (tile << cut.channels_log2) + channel_lane;
  lane.own = lane.channel < cut.channels;
  lane.begin = lane.split * cut.pixels_each;
  const int64_t end = lane.begin + cut.pixels_each;
  lane.last = end < cut.pixels ? end : cut.pixels;
  lane.first = lane.begin + lane.pixel_lane;
  if (!lane.own) lane.first = lane.last;
  return lane;
}

// The sums over a channel's lanes, in all of them; in a fixed order. All threads of the block must call it.
__device__ __forceinline__ double sum_of_channel(double value, const Lane& lane) {
  __shared__ double values[kThreads];
  values[lane.slot] = value;
  __syncthreads();
  for (int half = lane.step / 2; half > 0; half /= 2) {
    if (lane.pixel_lane < half) values[lane.slot] += values[lane.slot + half];
    __syncthreads();
  }
  const double sum = values[lane.slot - lane.pixel_lane];
  __syncthreads();  // before the next call writes
  return sum;
}

template <class S>
__device__ __forceinline__ S* plane_of(const PixelImages& images, const Lane& lane) {
  return static_cast<S*>(images.data) + lane.sample * images.batch + lane.channel * images.channel;
}

// Calls use(pixel, load(pixel)) for this thread's pixels.
template <class Load, class Use>
__device__ __forceinline__ void for_each_pixel(const Lane& lane, Load load, Use use) {
  int64_t pixel = lane.first;
  for (; pixel + (kAtOnce - 1) * lane.step < lane.last; pixel += kAtOnce * lane.step) {
    decltype(load(pixel)) loaded[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) loaded[k] = load(pixel + k * lane.step);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) use(pixel + k * lane.step, loaded[k]);
  }
  for (; pixel < lane.last; pixel += lane.step) use(pixel, load(pixel));
}

template <class T>
struct Channel {
  T mean, factor, constant;
};

template <class T>
__device__ __forceinline__ Channel<T> channel_of(const GroupNormCall& a, const Lane& lane, int64_t group) {
  const double mean = a.mean[group];
  const double weight = a.weight == nullptr ? 1.0 : a.weight[lane.channel];
  const double bias = a.bias == nullptr ? 0.0 : a.bias[lane.channel];
  const auto of = forward_coefficients(mean, static_cast<double>(static_cast<T>(mean)), a.inverse_std[group], weight, bias);
  return {static_cast<T>(of.mean), static_cast<T>(of.factor), static_cast<T>(of.constant)};
}

__device__ __forceinline__ int64_t group_of(const GroupNormCall& a, const Lane& lane) {
  return lane.sample * a.cut.groups + a.cut.by_group_channels.quotient(lane.channel);
}

template <class T>
__device__ __forceinline__ T activated(const GroupNormCall& a, T v) {
  if (a.silu) return v / (T(1) + exp_(-v));
  return v > T(0) ? v : v * static_cast<T>(a.negative_slope);
}

// The gradient by v of the activation.
template <class T>
__device__ __forceinline__ T before_activation(const GroupNormCall& a, T grad, T v) {
  if (a.silu) {
    const T sigmoid = T(1) / (T(1) + exp_(-v));
    return grad * (sigmoid * (T(1) + v * (T(1) - sigmoid)));
  }
  return v > T(0) ? grad : grad * static_cast<T>(a.negative_slope);
}

__device__ __forceinline__ double* sums_of(const GroupNormCall& a, const Lane& lane) {
  return a.sums + (lane.sample * a.cut.splits + lane.split) * 2 * a.cut.channels + lane.channel;
}

template <class S>
__global__ void __launch_bounds__(kThreads) moments_kernel(const __grid_constant__ GroupNormCall a) {
  using T = typename ComputeType<S>::type;
  const Lane lane = lane_of(a.cut);
  const S* const x = plane_of<const S>(a.x, lane);
  ShiftedSums<T> sums;
  if (lane.first < lane.last) sums.pivot = pivot_of(widen(x[lane.first * a.x.pixel]));
  int count = 0;
  for_each_pixel(
      lane, [&](int64_t pixel) { return x[pixel * a.x.pixel]; },
      [&](int64_t, S value) {
        sums.add(widen(value));
        ++count;
      });
  const Moments<T> own = sums.moments(count);
  const double number = static_cast<double>(count);
  const double center = static_cast<double>(own.mean) + static_cast<double>(own.rest);
  const double middle = sum_of_channel(number * center, lane) / static_cast<double>(lane.last - lane.begin);
  const double apart = count == 0 ? 0.0 : center - middle;
  const double squares = sum_of_channel(static_cast<double>(own.squares) + number * apart * apart, lane);
  if (!lane.own || lane.pixel_lane != 0) return;
  double* const to = sums_of(a, lane);
  to[0] = middle;
  to[a.cut.channels] = squares;
}

template <class S>
__global__ void __launch_bounds__(kThreads) apply_kernel(const __grid_constant__ GroupNormCall a) {
  using T = typename ComputeType<S>::type;
  const Lane lane = lane_of(a.cut);
  if (!lane.own) return;
  const S* const x = plane_of<const S>(a.x, lane);
  S* const y = plane_of<S>(a.out, lane);
  const Channel<T> c = channel_of<T>(a, lane, group_of(a, lane));
  for_each_pixel(
      lane, [&](int64_t pixel) { return x[pixel * a.x.pixel]; },
      [&](int64_t pixel, S value) {
        narrow(activated(a, (widen(value) - c.mean) * c.factor + c.constant), y[pixel * a.out.pixel]);
      });
}

template <class S>
struct Pair {
  S x, grad;
};

template <class S>
__global__ void __launch_bounds__(kThreads) sums_kernel(const __grid_constant__ GroupNormCall a) {
  using T = typename ComputeType<S>::type;
  const Lane lane = lane_of(a.cut);
  const S* const x = plane_of<const S>(a.x, lane);
  const S* const grad_y = plane_of<const S>(a.grad_y, lane);
  T total = T(0), product = T(0);
  if (lane.own) {
    const Channel<T> c = channel_of<T>(a, lane, group_of(a, lane));
    for_each_pixel(
        lane, [&](int64_t pixel) { return Pair<S>{x[pixel * a.x.pixel], grad_y[pixel * a.grad_y.pixel]}; },
        [&](int64_t, const Pair<S>& of) {
          const T d = widen(of.x) - c.mean, g = before_activation(a, widen(of.grad), d * c.factor + c.constant);
          total += g;
          product += g * d;
        });
  }
  const double grad = sum_of_channel(static_cast<double>(total), lane);
  const double grad_deviation = sum_of_channel(static_cast<double>(product), lane);
  if (!lane.own || lane.pixel_lane != 0) return;
  double* const to = sums_of(a, lane);
  to[0] = grad;
  to[a.cut.channels] = grad_deviation;
}

template <class S>
__global__ void __launch_bounds__(kThreads) gradients_kernel(const __grid_constant__ GroupNormCall a) {
  using T = typename ComputeType<S>::type;
  const Lane lane = lane_of(a.cut);
  if (!lane.own) return;
  const S* const x = plane_of<const S>(a.x, lane);
  const S* const grad_y = plane_of<const S>(a.grad_y, lane);
  S* const grad_x = plane_of<S>(a.out, lane);
  const int64_t group = group_of(a, lane);
  const Channel<T> c = channel_of<T>(a, lane, group);
  const T by_deviation = static_cast<T>(a.through[2 * group]), by_constant = static_cast<T>(a.through[2 * group + 1]);
  for_each_pixel(
      lane, [&](int64_t pixel) { return Pair<S>{x[pixel * a.x.pixel], grad_y[pixel * a.grad_y.pixel]}; },
      [&](int64_t pixel, const Pair<S>& of) {
        const T d = widen(of.x) - c.mean, g = before_activation(a, widen(of.grad), d * c.factor + c.constant);
        narrow(g * c.factor + (d * by_deviation + by_constant), grad_x[pixel * a.out.pixel]);
      });
}

// A warp for each group of a sample. Its lanes are some channels by some splits, so that all of them have work.
struct GroupOfWarp {
  int64_t index, sample, first;  // first: its first channel
  int lane, channel_lanes, channel_lane, split_lane;
  bool own;

  __device__ __forceinline__ int split_lanes() const { return kWarp / channel_lanes; }
};

__device__ __forceinline__ GroupOfWarp group_of_warp(const GroupNormCall& a) {
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  const int64_t sample = index / a.cut.groups;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int channel_lanes = 1;
  while (channel_lanes < kWarp && channel_lanes < a.cut.group_channels()) channel_lanes *= 2;
  return {index, sample, (index - sample * a.cut.groups) * a.cut.group_channels(),
          lane, channel_lanes, lane % channel_lanes, lane / channel_lanes, index < a.cut.batch * a.cut.groups};
}

__device__ __forceinline__ const double* sums_of(const GroupNormCall& a, const GroupOfWarp& group, int64_t split) {
  return a.sums + (group.sample * a.cut.splits + split) * 2 * a.cut.channels + group.first;
}

// The sum of term(pixels of the split, mean, squares) over the channels and splits of a group.
template <class Term>
__device__ __forceinline__ double over_group(const GroupNormCall& a, const GroupOfWarp& group, Term term) {
  double sum = 0.0;
  for (int64_t c = group.channel_lane; c < a.cut.group_channels(); c += group.channel_lanes) {
    for (int64_t split = group.split_lane; split < a.cut.splits; split += group.split_lanes()) {
      const int64_t left = a.cut.pixels - split * a.cut.pixels_each;
      const double* const of = sums_of(a, group, split) + c;
      sum += term(static_cast<double>(left < a.cut.pixels_each ? left : a.cut.pixels_each), of[0], of[a.cut.channels]);
    }
  }
  return sum_over_lanes(sum, kWarp);
}

__global__ void __launch_bounds__(kThreads) statistics_kernel(const __grid_constant__ GroupNormCall a) {
  const GroupOfWarp group = group_of_warp(a);
  if (!group.own) return;  // a whole warp at a time
  const double count = static_cast<double>(a.cut.group_channels() * a.cut.pixels);
  // Minus one of them, means far from 0 keep their digits.
  const double pivot = sums_of(a, group, 0)[0];
  const double mean =
      pivot + over_group(a, group, [&](double n, double of, double) { return n * (of - pivot); }) / count;
  const double squares = over_group(a, group, [&](double n, double of, double squared) {
    return squared + n * (of - mean) * (of - mean);
  });
  if (group.lane != 0) return;
  a.mean[group.index] = mean;
  a.inverse_std[group.index] = inverse_deviation(squares / count, a.eps);
}

__global__ void __launch_bounds__(kThreads) through_kernel(const __grid_constant__ GroupNormCall a, bool is_double) {
  const GroupOfWarp group = group_of_warp(a);
  if (!group.own) return;
  const double mean = a.mean[group.index], inverse_std = a.inverse_std[group.index];
  const double rounded = is_double ? mean : static_cast<double>(static_cast<float>(mean));
  double grad = 0.0, grad_deviation = 0.0;
  for (int64_t from = 0; from < a.cut.group_channels(); from += group.channel_lanes) {
    const int64_t c = from + group.channel_lane;
    const bool own = c < a.cut.group_channels();
    double sum = 0.0, product = 0.0;
    for (int64_t split = group.split_lane; own && split < a.cut.splits; split += group.split_lanes()) {
      const double* const of = sums_of(a, group, split) + c;
      sum += of[0];
      product += of[a.cut.channels];
    }
    for (int distance = kWarp / 2; distance >= group.channel_lanes; distance /= 2) {  // all lanes of the warp
      sum += __shfl_xor_sync(0xffffffffu, sum, distance, kWarp);
      product += __shfl_xor_sync(0xffffffffu, product, distance, kWarp);
    }
    if (!own || group.split_lane != 0) continue;
    product -= (mean - rounded) * sum;  // lost by rounding the mean
    const int64_t channel = group.first + c;
    a.by_bias[group.sample * a.cut.channels + channel] = sum;
    a.by_weight[group.sample * a.cut.channels + channel] = product * inverse_std;
    const double weight = a.weight == nullptr ? 1.0 : a.weight[channel];
    grad += weight * sum;
    grad_deviation += weight * product;
  }
  grad = sum_over_lanes(grad, kWarp);
  grad_deviation = sum_over_lanes(grad_deviation, kWarp);
  if (group.lane != 0) return;
  ChannelCoefficients of{rounded, 0.0, 0.0};
  add_backward(of, mean, inverse_std, static_cast<double>(a.cut.group_channels() * a.cut.pixels), grad, grad_deviation);
  a.through[2 * group.index] = of.by_deviation;
  a.through[2 * group.index + 1] = of.by_constant;
}

}  // namespace

GroupNormCut::GroupNormCut(int64_t batch_, int64_t channels_, int64_t groups_, int64_t pixels_, bool channels_first_)
    : batch(batch_), channels(channels_), groups(groups_), pixels(pixels_), channels_first(channels_first_) {
  constexpr int64_t kBlocksWanted = 1024, kPixelsOfThread = 32;
  // Of a tile where channels are side by side: 64 bytes at least. A wider one would have fewer pixels, and so more sums.
  constexpr int kWidestLog2 = 5;
  const auto log2_from = [](int64_t n) {
    int log2 = 0;
    while (log2 < kLanesLog2 && (int64_t{1} << log2) < n) ++log2;
    return log2;
  };
  channels_log2 = channels_first ? std::min(log2_from(channels), kWidestLog2) : kLanesLog2 - log2_from(pixels);
  channel_tiles = divided(channels, int64_t{1} << channels_log2);
  const int64_t at_once = int64_t{kThreads} >> channels_log2;
  int64_t steps = kPixelsOfThread;
  while (steps > 1 && batch * channel_tiles * divided(pixels, steps * at_once) < kBlocksWanted) steps /= 2;
  pixels_each = steps * at_once;
  splits = divided(pixels, pixels_each);
  by_channel_tiles = Divisor(channel_tiles);
  by_splits = Divisor(splits);
  by_group_channels = Divisor(group_channels());
}

int launch_group_norm(GroupNormStage stage, const GroupNormCall& a, uint64_t stream) {
  const int64_t warps = divided(a.cut.batch * a.cut.groups * kWarp, kThreads);
  if (stage == GroupNormStage::kStatistics) return launch(statistics_kernel, warps, kThreads, stream, a);
  if (stage == GroupNormStage::kThrough) {
    return launch(through_kernel, warps, kThreads, stream, a, a.dtype == DType::kFloat64);
  }
  return with_storage_type(a.dtype, [&](auto s) {
    using S = decltype(s);
    switch (stage) {
      case GroupNormStage::kMoments: return launch(moments_kernel<S>, a.cut.blocks(), kThreads, stream, a);
      case GroupNormStage::kApply: return launch(apply_kernel<S>, a.cut.blocks(), kThreads, stream, a);
      case GroupNormStage::kSums: return launch(sums_kernel<S>, a.cut.blocks(), kThreads, stream, a);
      default: return launch(gradients_kernel<S>, a.cut.blocks(), kThreads, stream, a);
    }
  });
}

}  // namespace sivae::cuda
