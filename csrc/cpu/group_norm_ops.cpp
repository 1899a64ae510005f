// Group norm with an activation on CPU tensors: group_norm_ops.h with the kernels of batch_norm_kernels.cpp, where the
// channels of a pixel are side by side, and else of plane_norm_kernels.cpp.
//
// A unit of work has statistics of its own: a sample, or where planes are apart a group of one. Its segments are cut by
// the shape alone, and their sums are added in their order, so results do not depend on the number of threads.
#include "../group_norm_ops.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "../group_norm.h"
#include "kernels.h"
#include "results.h"

namespace sivae::cpu {
namespace {

using at::Tensor;

constexpr int64_t kSegment = 32768;  // elements; below this number another thread costs more than it saves

char* data_of(const Tensor& images) {
  return images.defined() ? static_cast<char*>(const_cast<void*>(images.const_data_ptr())) : nullptr;
}

// What differs between the two kernels. `Args` are those of the first unit.
struct RowsOfSamples {
  using Args = BatchNorm;
  static int64_t units(const GroupNormTensors& norm) { return norm.batch(); }
  static int64_t unit_groups(const GroupNormTensors& norm) { return norm.groups; }
  static int64_t rows_each(const Args& args) {
    return std::max<int64_t>(kSegment / args.channels / kBatchNormBlock, 1) * kBatchNormBlock;
  }
  static int64_t segments(const Args& args) { return parts(args); }
  static void run(const Args& args, int64_t begin, int64_t end) { kernels().batch_norm(args, begin, end); }
  static int64_t offset(const ImageStrides& strides, int64_t unit, const GroupNormTensors&) {
    return unit * strides.batch;
  }
  static void fill(Args&, const ImageStrides*) {}
  static int64_t parts(const Args& args) { return (args.rows + args.rows_each - 1) / args.rows_each; }
  static void join_planes(Args&) {}
  static void take_kept_gradient(Args&) {}
};

struct PlanesOfGroups {
  using Args = PlaneNorm;
  static int64_t units(const GroupNormTensors& norm) { return norm.batch() * norm.groups; }
  static int64_t unit_groups(const GroupNormTensors&) { return 1; }
  static int64_t rows_each(const Args&) { return kSegment; }
  static int64_t parts(const Args& args) { return args.parts; }
  static int64_t segments(const Args& args) { return args.channels * args.parts; }
  static void run(const Args& args, int64_t begin, int64_t end) { kernels().plane_norm(args, begin, end); }
  static int64_t offset(const ImageStrides& strides, int64_t unit, const GroupNormTensors& norm) {
    return unit / norm.groups * strides.batch + unit % norm.groups * norm.group_channels() * strides.channel;
  }
  static void fill(Args& args, const ImageStrides (&strides)[3]) {
    args.parts = (args.rows + args.rows_each - 1) / args.rows_each;
    args.x_channel = strides[0].channel;
    args.grad_y_channel = strides[1].channel;
    args.out_channel = strides[2].channel;
  }
  // For moments the planes of a group are a single one where they follow each other.
  static void join_planes(Args& args) {
    if (args.parts > 1 || args.x_channel != args.rows) return;
    args.rows *= args.channels;
    args.channels = 1;
    args.parts = (args.rows + args.rows_each - 1) / args.rows_each;
  }
  static void take_kept_gradient(Args& args) { args.grad_y_channel = args.out_channel; }
};

template <class Kernel>
class Units {
 public:
  Units(const GroupNormTensors& norm, const Tensor& grad_y, const Tensor& out)
      : norm_(norm), groups_(Kernel::unit_groups(norm)), item_(norm.x.element_size()) {
    args_.dtype = dtype_of(norm.x.scalar_type());
    args_.silu = norm.silu();
    args_.negative_slope = norm.slope();
    args_.rows = norm.order.pixels();
    args_.channels = groups_ * norm.group_channels();
    args_.rows_each = Kernel::rows_each(args_);
    const Tensor images[] = {norm.x, grad_y, out};
    for (int k = 0; k < 3; ++k) {
      data_[k] = data_of(images[k]);
      if (images[k].defined()) strides_[k] = norm.order.strides_of(images[k]);
    }
    Kernel::fill(args_, strides_);
    moment_args_ = args_;
    Kernel::join_planes(moment_args_);
    args_.keeps_gradient = args_.silu && data_[2] != nullptr && item_ >= static_cast<int64_t>(sizeof(float));
    weight_ = norm.weight.defined() ? norm.weight.const_data_ptr<double>() : nullptr;
    bias_ = norm.bias.defined() ? norm.bias.const_data_ptr<double>() : nullptr;
  }

  void forward(double* mean, double* inverse_std, double eps) const {
    for_each([&](Unit& unit) {
      unit.run_moments(moment_args_);
      for (int64_t g = 0; g < groups_; ++g) {
        const int64_t group = unit.index * groups_ + g;
        moments(unit, g, mean[group], inverse_std[group], eps);
        channels_of(unit, g, mean[group], inverse_std[group]);
      }
      unit.write();
      unit.run(BatchNorm::kApply);
    });
  }

  // The gradients of weight and bias [B, C], and by x where there is memory for it.
  void backward(const double* mean, const double* inverse_std, double* by_weight, double* by_bias) const {
    for_each([&](Unit& unit) {
      const int64_t first_group = unit.index * groups_, size = norm_.group_channels();
      for (int64_t g = 0; g < groups_; ++g) channels_of(unit, g, mean[first_group + g], inverse_std[first_group + g]);
      unit.write();
      unit.run(BatchNorm::kGradientSums);
      for (int64_t g = 0; g < groups_; ++g) {
        const double exact = mean[first_group + g], inverse = inverse_std[first_group + g];
        double grad = 0.0, grad_deviation = 0.0;
        for (int64_t c = g * size; c < (g + 1) * size; ++c) {
          double sums[2] = {};
          for (int64_t part = 0; part < Kernel::parts(args_); ++part) {
            sums[0] += unit.sum(args_, part, 0, c);
            sums[1] += unit.sum(args_, part, 1, c);
          }
          sums[1] -= (exact - unit.channels[c].mean) * sums[0];  // lost by rounding the mean
          by_bias[unit.index * args_.channels + c] = sums[0];
          by_weight[unit.index * args_.channels + c] = sums[1] * inverse;
          const double weight = weight_of(unit, c);
          grad += weight * sums[0];
          grad_deviation += weight * sums[1];
        }
        for (int64_t c = g * size; c < (g + 1) * size; ++c) {
          add_backward(unit.channels[c], exact, inverse, norm_.group_count(), grad, grad_deviation);
        }
      }
      if (data_[2] == nullptr) return;
      unit.write();
      if (args_.keeps_gradient) unit.take_kept_gradient();
      unit.run(BatchNorm::kGradients);
    });
  }

 private:
  using Args = typename Kernel::Args;

  // A thread's memory for a unit.
  struct Unit {
    Args args;
    int64_t index = 0, first_channel = 0;
    bool alone;  // the only one that is being worked on: its segments are shared by the threads
    std::vector<double> sums;
    std::vector<ChannelCoefficients> channels;
    std::vector<double> table;  // of the arithmetic type

    Unit(const Args& first, bool alone, int64_t sums)
        : alone(alone), sums(sums), channels(first.channels), table(5 * first.channels) {}
    void start(const Args& first, const void* x, const void* grad_y, void* out) {
      args = first;
      args.sums = sums.data();
      args.coefficients = table.data();
      args.x = x;
      args.grad_y = grad_y;
      args.out = out;
    }
    double sum(const Args& of, int64_t part, int which, int64_t channel) const {
      return sums[(part * 2 + which) * of.channels + channel];
    }
    void run(BatchNorm::Stage stage) {
      args.stage = stage;
      run_segments(args);
    }
    void run_moments(const Args& cut) {
      Args moments = cut;
      moments.stage = BatchNorm::kMoments;
      moments.x = args.x;
      moments.sums = args.sums;
      run_segments(moments);
    }
    void run_segments(const Args& of) const {
      const int64_t segments = Kernel::segments(of);
      if (!alone) return Kernel::run(of, 0, segments);
      const int64_t each = (of.rows * of.channels + segments - 1) / segments;
      at::parallel_for(0, segments, std::max<int64_t>(kSegment / each, 1),
                       [&](int64_t begin, int64_t end) { Kernel::run(of, begin, end); });
    }
    void take_kept_gradient() {
      args.grad_y = args.out;
      args.silu = false;
      args.negative_slope = 1.0;
      Kernel::take_kept_gradient(args);
    }
    void write() {
      if (args.dtype == DType::kFloat64) {
        write_as(table.data());
      } else {
        write_as(reinterpret_cast<float*>(table.data()));
      }
    }
    template <class T>
    void write_as(T* to) {
      const int64_t count = args.channels;
      for (int64_t c = 0; c < count; ++c) {
        const ChannelCoefficients& of = channels[c];
        to[c] = static_cast<T>(of.mean);
        to[count + c] = static_cast<T>(of.factor);
        to[2 * count + c] = static_cast<T>(of.constant);
        to[3 * count + c] = static_cast<T>(of.by_deviation);
        to[4 * count + c] = static_cast<T>(of.by_constant);
      }
    }
  };

  template <class Work>
  void for_each(Work work) const {
    const int64_t units = Kernel::units(norm_), size = std::max<int64_t>(args_.rows * args_.channels, 1);
    const bool alone = Kernel::segments(args_) > 1 && units < at::get_num_threads();
    const int64_t sums = 2 * std::max(Kernel::parts(args_) * args_.channels, Kernel::parts(moment_args_));
    const auto some = [&](int64_t begin, int64_t end) {
      Unit unit(args_, alone, sums);
      for (unit.index = begin; unit.index < end; ++unit.index) {
        unit.first_channel = unit.index * args_.channels % norm_.channels();
        unit.start(args_, at_unit(0, unit.index), at_unit(1, unit.index), at_unit(2, unit.index));
        work(unit);
      }
    };
    if (alone) return some(0, units);
    at::parallel_for(0, units, std::max<int64_t>(kSegment / size, 1), some);
  }

  char* at_unit(int operand, int64_t unit) const {
    char* const data = data_[operand];
    return data == nullptr ? nullptr : data + Kernel::offset(strides_[operand], unit, norm_) * item_;
  }

  double value_of(const double* parameter, double absent, const Unit& unit, int64_t channel) const {
    return parameter == nullptr ? absent : parameter[unit.first_channel + channel];
  }
  double weight_of(const Unit& unit, int64_t channel) const { return value_of(weight_, 1.0, unit, channel); }

  // Merges the moments of a group's segments.
  void moments(const Unit& unit, int64_t group, double& mean, double& inverse_std, double eps) const {
    const Args& cut = moment_args_;
    const int64_t channels = cut.channels / groups_, first = group * channels;
    const auto add = [&](auto term) {
      double sum = 0.0;
      for (int64_t part = 0; part < Kernel::parts(cut); ++part) {
        const double count = static_cast<double>(cut.end_of(part) - part * cut.rows_each);
        for (int64_t c = first; c < first + channels; ++c) sum += term(part, c, count);
      }
      return sum / norm_.group_count();
    };
    // Minus one of them, means far from 0 keep their digits.
    const double pivot = unit.sum(cut, 0, 0, first);
    const double middle = pivot + add([&](int64_t part, int64_t c, double count) {
      return count * (unit.sum(cut, part, 0, c) - pivot);
    });
    const double variance = add([&](int64_t part, int64_t c, double count) {
      const double deviation = unit.sum(cut, part, 0, c) - middle;
      return unit.sum(cut, part, 1, c) + count * deviation * deviation;
    });
    mean = middle;
    inverse_std = inverse_deviation(variance, eps);
  }

  void channels_of(Unit& unit, int64_t group, double mean, double inverse_std) const {
    const double rounded = args_.dtype == DType::kFloat64 ? mean : static_cast<double>(static_cast<float>(mean));
    const int64_t first = group * norm_.group_channels();
    for (int64_t c = first; c < first + norm_.group_channels(); ++c) {
      unit.channels[c] =
          forward_coefficients(mean, rounded, inverse_std, weight_of(unit, c), value_of(bias_, 0.0, unit, c));
    }
  }

  const GroupNormTensors& norm_;
  int64_t groups_, item_;
  Args args_, moment_args_;
  char* data_[3] = {};  // x, grad_y and the result
  ImageStrides strides_[3] = {};
  const double *weight_ = nullptr, *bias_ = nullptr;
};

struct CpuGroupNorm {
  static Tensor empty_like(const Tensor& x) { return empty_result(x); }

  template <class Call>
  static void with_units(const GroupNormTensors& norm, const Tensor& grad_y, const Tensor& out, Call call) {
    if (norm.order.rows()) return call(Units<RowsOfSamples>(norm, grad_y, out));
    call(Units<PlanesOfGroups>(norm, grad_y, out));
  }

  static void forward(const GroupNormTensors& norm, const Tensor& y, Tensor& mean, Tensor& inverse_std, double eps) {
    with_units(norm, Tensor(), y, [&](const auto& units) {
      units.forward(mean.mutable_data_ptr<double>(), inverse_std.mutable_data_ptr<double>(), eps);
    });
  }

  static ChannelGradients backward(const GroupNormTensors& norm, const Tensor& grad_y, const Tensor& mean,
                                   const Tensor& inverse_std, const Tensor& grad_x) {
    ChannelGradients gradients;
    gradients.weight = at::empty({norm.batch(), norm.channels()}, mean.options());
    gradients.bias = at::empty_like(gradients.weight);
    with_units(norm, grad_y, grad_x, [&](const auto& units) {
      units.backward(mean.const_data_ptr<double>(), inverse_std.const_data_ptr<double>(),
                     gradients.weight.mutable_data_ptr<double>(), gradients.bias.mutable_data_ptr<double>());
    });
    return gradients;
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, CPU, m) {
  m.impl("group_norm_silu", &GroupNormOps<CpuGroupNorm>::forward);
  m.impl("group_norm_silu_backward", &GroupNormOps<CpuGroupNorm>::backward);
}

}  // namespace sivae::cpu
