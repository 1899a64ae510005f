// The CPU implementation of fully connected networks with ReLU in bfloat16 (schemas: sivae/ops/relu_network.py).
//
// Blocks of rows of the batch pass all layers together, so that their values stay in the caches. Products of hidden
// layers are oneDNN's, by torch's brgemm. The first and the last layer have few inputs or outputs and run in float32.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <torch/library.h>

#include <algorithm>
#include <memory>
#include <tuple>
#include <vector>

#include "../operands.h"
#include "kernels.h"

namespace sivae::cpu {
namespace {

using at::Tensor;
using Words = std::unique_ptr<uint32_t[]>;

const ReluNetworkKernels& parts() { return *kernels().relu_network; }

int64_t padded(int64_t count) { return (count + kNetworkPad - 1) / kNetworkPad * kNetworkPad; }

// sums [m, n] = a [m, k] b, where b holds the pairs of rows of a matrix [k, n].
void product(int64_t m, int64_t n, int64_t k, const BFloat16* a, int64_t stride_a, const uint32_t* b, int64_t stride_b,
             float* sums, int64_t stride) {
  at::native::cpublas::brgemm(m, n, k, stride_a, stride_b, stride, false, reinterpret_cast<const at::BFloat16*>(a),
                              reinterpret_cast<const at::BFloat16*>(b), sums, true);
}

// Gives up the state of the processor that products need, however a loop ends.
struct Products {
  ~Products() { at::native::cpublas::brgemm_release(true); }
};

// Runs the blocks of a loop on the threads.
template <class Run>
void in_parallel(int64_t count, Run run) {
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    const Products products;
    run(begin, end);
  });
}

class Network {
 public:
  Network(const Tensor& x, at::TensorList weights) : rows_(x.dim() == 2 ? x.size(0) : 0) {
    TORCH_CHECK(at::native::cpublas::could_pack(at::kBFloat16),
                "sivae: relu_network: this processor does not multiply bfloat16 matrices");
    TORCH_CHECK_VALUE(rows_ > 0 && weights.size() >= 2,
                      "sivae: relu_network: expected x [B, in] with rows, and two layers or more");
    widths_.push_back(x.size(1));
    for (const Tensor& weight : weights) {
      TORCH_CHECK_VALUE(weight.dim() == 2, "sivae: relu_network: a weight has ", weight.dim(), " dimensions, expected 2");
      check("a weight", weight, x, {weight.size(0), widths_.back()});
      widths_.push_back(weight.size(0));
      weights_.push_back(weight.contiguous());
    }
    const int64_t ends = std::max(widths_.front(), widths_.back());
    TORCH_CHECK_VALUE(std::min(widths_.front(), widths_.back()) > 0 && ends <= kNetworkEnds,
                      "sivae: relu_network: it has ", widths_.front(), " inputs and ", widths_.back(),
                      " outputs, expected 1 to ", kNetworkEnds);
    for (size_t layer = 1; layer < weights.size(); ++layer) {
      const int64_t width = widths_[layer];
      TORCH_CHECK_VALUE(width > 0 && width % kNetworkPad == 0, "sivae: relu_network: a hidden layer has ", width,
                        " values, expected a multiple of ", kNetworkPad);
      offsets_.push_back(hidden_size_);
      hidden_size_ += rows_ * width;
      widest_ = std::max(widest_, width);
    }
    x_ = checked("x", x, x, {rows_, widths_.front()});
    first_weight_ = weights_[0].t().contiguous();
  }

  static void check(const char* name, const Tensor& tensor, const Tensor& like, at::IntArrayRef shape) {
    check_operand(name, tensor, like, shape);
    TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat, "sivae: relu_network: ", name, " has dtype ",
                     tensor.scalar_type(), ", expected float32");
  }
  static Tensor checked(const char* name, const Tensor& tensor, const Tensor& like, at::IntArrayRef shape) {
    check(name, tensor, like, shape);
    return tensor.contiguous();
  }

  int64_t rows() const { return rows_; }
  int64_t in() const { return widths_.front(); }
  int64_t out() const { return widths_.back(); }
  int64_t layers() const { return static_cast<int64_t>(weights_.size()); }
  int64_t hidden_layers() const { return layers() - 1; }
  int64_t blocks() const { return (rows_ + kNetworkRows - 1) / kNetworkRows; }
  int64_t hidden_size() const { return hidden_size_; }
  int64_t widest() const { return widest_; }
  // Of the values after layer 0, 1, ...: how many, and where they begin in memory for all hidden layers.
  int64_t width(int64_t hidden) const { return widths_[hidden + 1]; }
  template <class Value>
  Value* values(Value* all, int64_t hidden, int64_t row = 0) const {
    return all + offsets_[hidden] + row * width(hidden);
  }
  const float* x(int64_t row = 0) const { return x_.const_data_ptr<float>() + row * in(); }
  const float* first_weight() const { return first_weight_.const_data_ptr<float>(); }
  const float* last_weight() const { return weights_.back().const_data_ptr<float>(); }
  const float* weight(int64_t layer) const { return weights_[layer].const_data_ptr<float>(); }
  // The weights [out, in] between hidden layers in pairs, by `pair`: entry h leads to hidden layer h.
  std::vector<Words> paired(void (*pair)(const float*, int64_t, int64_t, uint32_t*)) const {
    std::vector<Words> all(hidden_layers());
    at::parallel_for(1, hidden_layers(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) {
        all[h] = std::make_unique_for_overwrite<uint32_t[]>(width(h) * width(h - 1) / 2);
        pair(weight(h), width(h), width(h - 1), all[h].get());
      }
    });
    return all;
  }

 private:
  int64_t rows_, hidden_size_ = 0, widest_ = 0;
  std::vector<int64_t> widths_, offsets_;
  std::vector<Tensor> weights_;
  Tensor x_, first_weight_;
};

std::tuple<Tensor, Tensor> relu_network(const Tensor& x, at::TensorList weights, at::TensorList biases) {
  const Network net(x, weights);
  TORCH_CHECK_VALUE(biases.size() == weights.size(), "sivae: relu_network: ", weights.size(), " weights and ",
                    biases.size(), " biases, expected as many");
  std::vector<Tensor> shifts;
  for (size_t layer = 0; layer < biases.size(); ++layer) {
    shifts.push_back(Network::checked("a bias", biases[layer], x, {weights[layer].size(0)}));
  }
  const auto shift = [&](int64_t layer) { return shifts[layer].const_data_ptr<float>(); };
  Tensor y = at::empty({net.rows(), net.out()}, x.options());
  Tensor hidden = at::empty({net.hidden_size()}, x.options().dtype(at::kBFloat16));
  float* to = y.mutable_data_ptr<float>();
  auto* kept = reinterpret_cast<BFloat16*>(hidden.mutable_data_ptr<at::BFloat16>());
  const std::vector<Words> words = net.paired(parts().pair_columns);
  in_parallel(net.blocks(), [&](int64_t begin, int64_t end) {
    const auto sums = std::make_unique_for_overwrite<float[]>(kNetworkRows * net.widest());
    for (int64_t row = begin * kNetworkRows; row < std::min(end * kNetworkRows, net.rows()); row += kNetworkRows) {
      const int64_t rows = std::min(kNetworkRows, net.rows() - row);
      parts().first(net.x(row), net.first_weight(), shift(0), rows, net.in(), net.width(0), net.values(kept, 0, row));
      for (int64_t h = 1; h < net.hidden_layers(); ++h) {
        const int64_t in = net.width(h - 1), width = net.width(h);
        product(rows, width, in, net.values(kept, h - 1, row), in, words[h].get(), width, sums.get(), width);
        parts().add_relu(sums.get(), shift(h), rows, width, net.values(kept, h, row));
      }
      const int64_t h = net.hidden_layers() - 1;
      parts().last(net.values(kept, h, row), net.last_weight(), shift(net.layers() - 1), rows, net.width(h), net.out(),
                   to + row * net.out());
    }
  });
  return {y, hidden};
}

// The gradients of the weights between hidden layers h - 1 and h and of the bias, by grad [B, width of h].
void hidden_gradients(const Network& net, int64_t h, const BFloat16* grad, const BFloat16* hidden, float* of_weight) {
  const int64_t in = net.width(h - 1), width = net.width(h), rows = padded(net.rows());
  const auto pairs_of = [&](const BFloat16* of, int64_t columns) {
    Words words = std::make_unique_for_overwrite<uint32_t[]>(rows / 2 * columns);
    const int64_t filled = (net.rows() + 1) / 2 * columns;
    parts().pair_half_rows(of, net.rows(), columns, words.get());
    std::fill(words.get() + filled, words.get() + rows / 2 * columns, 0);
    return words;
  };
  const Words values = pairs_of(hidden, in), pairs = pairs_of(grad, width);
  const Words turned = std::make_unique_for_overwrite<uint32_t[]>(rows / 2 * width);
  parts().transpose(pairs.get(), rows / 2, width, turned.get());
  in_parallel(width / kNetworkPad, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * kNetworkPad; at < end * kNetworkPad; at += kNetworkPad) {
      const auto* a = reinterpret_cast<const BFloat16*>(turned.get() + at * (rows / 2));
      product(kNetworkPad, in, rows, a, rows, values.get(), in, of_weight + at * in, in);
    }
  });
}

// The gradients of the weights and then of the biases stand side by side in one tensor.
std::tuple<Tensor, Tensor> relu_network_backward(const Tensor& grad_y, const Tensor& x,
                                                              const Tensor& hidden, at::TensorList weights,
                                                              bool need_x, bool need_parameters) {
  const Network net(x, weights);
  const Tensor grad = Network::checked("grad_y", grad_y, x, {net.rows(), net.out()});
  check_operand("hidden", hidden, x, {net.hidden_size()});
  TORCH_CHECK_TYPE(hidden.scalar_type() == at::kBFloat16 && hidden.is_contiguous(),
                   "sivae: relu_network: expected hidden as the forward pass returned it");
  Tensor grad_x = at::empty({need_x ? net.rows() : 0, net.in()}, x.options());
  Tensor grad_hidden = at::empty_like(hidden);
  const float* from = grad.const_data_ptr<float>();
  const auto* kept = reinterpret_cast<const BFloat16*>(hidden.const_data_ptr<at::BFloat16>());
  auto* gradients = reinterpret_cast<BFloat16*>(grad_hidden.mutable_data_ptr<at::BFloat16>());
  float* to = grad_x.mutable_data_ptr<float>();
  const int64_t last = net.hidden_layers() - 1;
  const std::vector<Words> words = net.paired(parts().pair_rows);
  in_parallel(net.blocks(), [&](int64_t begin, int64_t end) {
    const auto sums = std::make_unique_for_overwrite<float[]>(kNetworkRows * net.widest());
    for (int64_t row = begin * kNetworkRows; row < std::min(end * kNetworkRows, net.rows()); row += kNetworkRows) {
      const int64_t rows = std::min(kNetworkRows, net.rows() - row);
      parts().last_input_gradient(from + row * net.out(), net.last_weight(), net.values(kept, last, row), rows,
                                  net.width(last), net.out(), net.values(gradients, last, row));
      for (int64_t h = last; h > 0; --h) {
        const int64_t in = net.width(h - 1), width = net.width(h);
        product(rows, in, width, net.values(gradients, h, row), width, words[h].get(), in, sums.get(), in);
        parts().relu_gradient(sums.get(), net.values(kept, h - 1, row), rows, in, net.values(gradients, h - 1, row));
      }
      if (need_x) {
        parts().first_input_gradient(net.values(gradients, 0, row), net.first_weight(), rows, net.in(), net.width(0),
                                     to + row * net.in());
      }
    }
  });

  if (!need_parameters) return {grad_x, at::empty({0}, x.options())};
  int64_t of_weights = 0, of_biases = 0;
  for (const Tensor& weight : weights) {
    of_weights += weight.numel();
    of_biases += weight.size(0);
  }
  Tensor grad_parameters = at::empty({of_weights + of_biases}, x.options());
  float* of_weight = grad_parameters.mutable_data_ptr<float>();
  float* of_bias = of_weight + of_weights;
  for (int64_t layer = 0; layer < net.layers(); ++layer) {
    if (layer == net.layers() - 1) {
      parts().last_weight_gradient(from, net.values(kept, last), net.rows(), net.width(last), net.out(), of_weight,
                                   of_bias);
    } else {
      const BFloat16* of_layer = net.values(static_cast<const BFloat16*>(gradients), layer);
      parts().column_sums(of_layer, net.rows(), net.width(layer), of_bias);
      if (layer == 0) {
        parts().first_weight_gradient(of_layer, net.x(), net.rows(), net.in(), net.width(0), of_weight);
      } else {
        hidden_gradients(net, layer, of_layer, net.values(kept, layer - 1), of_weight);
      }
    }
    of_weight += weights[layer].numel();
    of_bias += weights[layer].size(0);
  }
  return {grad_x, grad_parameters};
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, CPU, m) {
  m.impl("relu_network", &relu_network);
  m.impl("relu_network_backward", &relu_network_backward);
}

}  // namespace sivae::cpu
