// The Chamfer distance on tensors, written once for all devices (schemas: sivae/ops/library.py).
//
// `Device` is a struct with the parts that differ (cpu/chamfer_ops.cpp, cuda/chamfer_ops.cpp):
//   ChamferForward, ChamferBackward       the arguments of its kernels
//   empty_or_like(tensor, needed)         memory for a gradient
//   forward(call, points, reduction)      runs the kernels, which fill in the indices, and gives the op's distances
//   backward(call, points)
#pragma once

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <cstdint>
#include <limits>
#include <tuple>

#include "arguments.h"
#include "chamfer.h"
#include "operands.h"
#include "torch_dtype.h"

namespace sivae {

template <class Device>
struct ChamferOps {
  using Tensor = at::Tensor;

  static std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& points, const Tensor& targets, int64_t reduction) {
    const c10::DeviceGuard device(points.device());
    ChamferForward call = call_of<ChamferForward>(points, targets);
    const auto options = points.options().dtype(at::kInt);
    Tensor nearest_target = at::empty({call.batch, call.points.count}, options);
    Tensor nearest_point = at::empty({call.batch, call.targets.count}, options);
    if (call.batch == 0 || call.points.count == 0 || call.targets.count == 0) {
      // A point without another one to be near is infinitely far.
      const bool no_points = call.points.count == 0 && call.targets.count == 0;
      const Tensor distances = at::full({call.batch}, no_points ? 0.0 : std::numeric_limits<double>::infinity(),
                                        points.options().dtype(sum_dtype(points.scalar_type())));
      const Tensor reduced = reduction == 0 ? distances : (reduction == 1 ? distances.mean() : distances.sum());
      return {reduced, nearest_target.fill_(kNoPoint), nearest_point.fill_(kNoPoint)};
    }
    call.nearest_target = nearest_target.mutable_data_ptr<int32_t>();
    call.nearest_point = nearest_point.mutable_data_ptr<int32_t>();
    return {Device::forward(call, points, reduction), nearest_target, nearest_point};
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& points, const Tensor& targets,
                                             const Tensor& nearest_target, const Tensor& nearest_point,
                                             int64_t reduction, bool need_points, bool need_targets) {
    const c10::DeviceGuard device(points.device());
    ChamferBackward call = call_of<ChamferBackward>(points, targets);
    const Tensor to_targets = indices("nearest_target", nearest_target, points);
    const Tensor to_points = indices("nearest_point", nearest_point, targets);
    call.grad = row_gradient_of(grad, points, reduction);
    call.nearest_target = to_targets.const_data_ptr<int32_t>();
    call.nearest_point = to_points.const_data_ptr<int32_t>();
    Tensor grad_points = Device::empty_or_like(points, need_points);
    Tensor grad_targets = Device::empty_or_like(targets, need_targets);
    if (need_points) call.grad_points = clouds_of(grad_points, grad_points.mutable_data_ptr());
    if (need_targets) call.grad_targets = clouds_of(grad_targets, grad_targets.mutable_data_ptr());
    if (call.batch > 0 && (need_points || need_targets)) Device::backward(call, points);
    return {grad_points, grad_targets};
  }

 private:
  using ChamferForward = typename Device::ChamferForward;
  using ChamferBackward = typename Device::ChamferBackward;

  static Clouds clouds_of(const Tensor& t, void* data) {
    return {data, t.size(1), t.stride(0), t.stride(1), t.stride(2)};
  }

  template <class Call>
  static Call call_of(const Tensor& points, const Tensor& targets) {
    TORCH_CHECK_VALUE(points.dim() == 3 && targets.dim() == 3 && points.size(0) == targets.size(0) &&
                          points.size(2) == targets.size(2) && points.size(2) > 0,
                      "sivae: points and targets have shapes ", points.sizes(), " and ", targets.sizes(),
                      ", expected [B, N, D] and [B, M, D]");
    TORCH_CHECK_VALUE(points.device() == targets.device(), "sivae: targets are on ", targets.device(), ", expected ",
                      points.device());
    TORCH_CHECK_TYPE(points.scalar_type() == targets.scalar_type(), "sivae: targets have dtype ",
                     targets.scalar_type(), ", expected ", points.scalar_type());
    constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
    TORCH_CHECK_VALUE(points.size(1) <= kMost && targets.size(1) <= kMost,
                      "sivae: a cloud has more than 2^31 - 1 points");
    Call call;
    call.dtype = dtype_of(points.scalar_type());
    call.batch = points.size(0);
    call.dims = points.size(2);
    call.points = clouds_of(points, const_cast<void*>(points.const_data_ptr()));
    call.targets = clouds_of(targets, const_cast<void*>(targets.const_data_ptr()));
    return call;
  }

  static Tensor indices(const char* name, const Tensor& tensor, const Tensor& clouds) {
    check_operand(name, tensor, clouds, clouds.sizes().slice(0, 2));
    TORCH_CHECK_TYPE(tensor.scalar_type() == at::kInt, "sivae: ", name, " has dtype ", tensor.scalar_type(),
                     ", expected Int");
    return tensor.contiguous();
  }
};

}  // namespace sivae
