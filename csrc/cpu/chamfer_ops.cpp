// The Chamfer distance on CPU tensors: chamfer_ops.h with the CPU's kernels, memory and threads.
#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>

#include "../chamfer_ops.h"
#include "kernels.h"
#include "results.h"

namespace sivae::cpu {
namespace {

using at::Tensor;

// Below this work another thread costs more than it saves.
constexpr int64_t kPairsGrain = 1 << 17, kPointsGrain = 8192;
// Parts of a cloud that are not worth to be cut further, and units of work that keep a thread busy to the end.
constexpr int64_t kLeastPoints = 256, kUnitsOfThread = 4;

int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cuts clouds into parts where there are few for all threads. Minima are exact, so the cut changes no bit.
void cut(ChamferForward& a) {
  const int64_t wanted = at::get_num_threads() > 1 ? divided(kUnitsOfThread * at::get_num_threads(), a.batch) : 1;
  const int64_t parts = std::min(wanted, divided(a.points.count, kLeastPoints));
  a.points_each = chamfer_padded(divided(a.points.count, parts));
  a.parts = divided(a.points.count, a.points_each);
}

// In lanes, which a compiler may add side by side, and in a fixed order.
template <class T>
double sum_of(const T* values, int64_t count) {
  constexpr int64_t kLanes = 8;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += static_cast<double>(values[i + lane]);
  }
  for (; i < count; ++i) lanes[i % kLanes] += static_cast<double>(values[i]);
  return sum_in_pairs(lanes, kLanes);
}

// Takes each target's nearest point of all parts; returns the sum of a sample's distances both ways.
template <class T>
double finish(const ChamferForward& a, int64_t sample, int32_t* nearest_point) {
  const int64_t count = a.targets.count;
  T* best = static_cast<T*>(a.target_distances) + sample * a.parts * count;
  const int32_t* index = a.nearest_point + sample * a.parts * count;
  if (a.parts > 1) std::copy_n(index, count, nearest_point + sample * count);
  for (int64_t part = 1; part < a.parts; ++part) {
    for (int64_t j = 0; j < count; ++j) {
      if (!is_nearer(best[part * count + j], best[j])) continue;
      best[j] = best[part * count + j];
      nearest_point[sample * count + j] = index[part * count + j];
    }
  }
  return sum_of(static_cast<const T*>(a.point_distances) + sample * a.points.count, a.points.count) +
         sum_of(best, count);
}

struct Cpu {
  using ChamferForward = cpu::ChamferForward;
  using ChamferBackward = cpu::ChamferBackward;

  static Tensor empty_or_like(const Tensor& tensor, bool needed) {
    return needed ? empty_result(tensor) : at::empty({0}, tensor.options());
  }

  static Tensor forward(ChamferForward& a, const Tensor& points, int64_t reduction) {
    cut(a);
    const auto options = points.options().dtype(sum_dtype(points.scalar_type()));
    const Tensor point_distances = at::empty({a.batch, a.points.count}, options);
    const Tensor target_distances = at::empty({a.batch, a.parts, a.targets.count}, options);
    a.point_distances = point_distances.mutable_data_ptr();
    a.target_distances = target_distances.mutable_data_ptr();
    int32_t* const nearest_point = a.nearest_point;
    Tensor of_parts;
    if (a.parts > 1) {
      of_parts = at::empty({a.batch, a.parts, a.targets.count}, points.options().dtype(at::kInt));
      a.nearest_point = of_parts.mutable_data_ptr<int32_t>();
    }
    const size_t scratch = a.scratch() * options.dtype().itemsize();
    const int64_t grain = std::max<int64_t>(kPairsGrain / std::max<int64_t>(a.points_each * a.targets.count, 1), 1);
    at::parallel_for(0, a.batch * a.parts, grain, [&](int64_t begin, int64_t end) {
      const at::DataPtr own = c10::GetCPUAllocator()->allocate(scratch);
      kernels().chamfer_forward(a, begin, end, own.get());
    });
    const PartialSums sums(points, 1, reduction);
    at::parallel_for(0, a.batch, std::max<int64_t>(kPointsGrain / (a.points.count + a.targets.count), 1),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t sample = begin; sample < end; ++sample) {
                         sums.data()[sample] = a.dtype == DType::kFloat64 ? finish<double>(a, sample, nearest_point)
                                                                          : finish<float>(a, sample, nearest_point);
                       }
                     });
    return sums.finish();
  }

  static void backward(const ChamferBackward& a, const Tensor&) {
    const int64_t each = std::max<int64_t>(a.points.count + a.targets.count, 1);
    at::parallel_for(0, a.batch, std::max<int64_t>(kPointsGrain / each, 1), [&](int64_t begin, int64_t end) {
      const at::DataPtr own = c10::GetCPUAllocator()->allocate(a.scratch() * sizeof(double));
      kernels().chamfer_backward(a, begin, end, static_cast<double*>(own.get()));
    });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, CPU, m) {
  m.impl("chamfer_distance", &ChamferOps<Cpu>::forward);
  m.impl("chamfer_distance_backward", &ChamferOps<Cpu>::backward);
}

}  // namespace sivae::cpu
