// The CPU implementation of the fully connected network (schemas: sivae/ops/library.py).
//
// A chunk of rows goes through all layers while it lies in a core's cache, on one thread, forward as well as backward,
// where it also adds to the thread's own sums for the gradients of weights and biases. Of a network too large for that
// the whole batch is one chunk, and each step of it runs on all threads.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../torch_dtype.h"
#include "kernels.h"

namespace sivae::cpu {
namespace {

using at::Tensor;
using at::TensorList;

constexpr int64_t kChunkRows = 256;         // with the weights of a layer of 256 features they fit 1 MiB
constexpr int64_t kLargeNetwork = 1 << 20;  // parameters from which on a network is not cut
constexpr int64_t kSumElements = 1 << 24;   // of all threads' own sums
constexpr int64_t kGrain = 32768;           // elements below which another thread costs more than it saves
constexpr int64_t kSumCols = 256;           // that a thread sums at least

int64_t parts_of(int64_t count, int64_t each) { return (count + each - 1) / each; }

int64_t size_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

// On all threads where it is not one of several chunks that share them already.
void run(void (*kernel)(const LayerRows&), const LayerRows& all) {
  const int64_t each = std::max<int64_t>((all.inner + 1) * all.cols, 1), size = size_of(all.dtype);
  at::parallel_for(0, all.rows, parts_of(kGrain, each), [&](int64_t begin, int64_t end) {
    LayerRows rows(all);
    rows.rows = end - begin;
    rows.a = static_cast<const char*>(all.a) + begin * all.inner * size;
    rows.y = static_cast<char*>(all.y) + begin * all.cols * size;
    if (all.activation != nullptr) {
      rows.activation = static_cast<const char*>(all.activation) + begin * all.cols * size;
    }
    kernel(rows);
  });
}

void run_sums(const LayerSums& all) {
  const int64_t parts = parts_of(all.cols, kSumCols), size = size_of(all.dtype);
  at::parallel_for(0, parts, parts_of(kGrain, std::max<int64_t>(all.rows * kSumCols, 1)),
                   [&](int64_t begin, int64_t end) {
    LayerSums sums(all);
    const int64_t first = begin * kSumCols;
    sums.cols = std::min(end * kSumCols, all.cols) - first;
    sums.values = static_cast<const char*>(all.values) + first * size;
    if (all.weighted != nullptr) sums.weighted = static_cast<char*>(all.weighted) + first * size;
    if (all.plain != nullptr) sums.plain = static_cast<char*>(all.plain) + first * size;
    kernels().layer_sums(sums);
  });
}

// Layers that hold together, in dense memory.
class Network {
 public:
  Network(const Tensor& x, TensorList weights) {
    TORCH_CHECK_TYPE(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble, "sivae: x has dtype ",
                     x.scalar_type(), ", expected float32 or float64");
    TORCH_CHECK_VALUE(x.dim() == 2, "sivae: x has shape ", x.sizes(), ", expected [B, features]");
    TORCH_CHECK_VALUE(!weights.empty(), "sivae: no weights are given, expected one for each layer");
    int64_t features = x.size(1);
    for (const Tensor& weight : weights) {
      TORCH_CHECK_VALUE(weight.dim() == 2 && weight.size(1) == features, "sivae: a weight has shape ", weight.sizes(),
                        ", expected [features, ", features, "]");
      check(weight, x, "a weight");
      features = weight.size(0);
      weights_.push_back(weight.contiguous());
      const bool few = is_few(weight.size(1));
      transposed_.push_back(few ? weight.t().contiguous() : Tensor());
    }
  }

  static void check(const Tensor& tensor, const Tensor& x, const char* name) {
    TORCH_CHECK_TYPE(tensor.scalar_type() == x.scalar_type(), "sivae: ", name, " has dtype ", tensor.scalar_type(),
                     ", expected ", x.scalar_type());
    TORCH_CHECK_VALUE(tensor.device().is_cpu(), "sivae: ", name, " is on ", tensor.device(), ", expected cpu");
  }
  static bool is_few(int64_t features) { return features >= 1 && features <= kFewFeatures; }

  int64_t layers() const { return static_cast<int64_t>(weights_.size()); }
  int64_t in(int64_t layer) const { return weights_[layer].size(1); }
  int64_t out(int64_t layer) const { return weights_[layer].size(0); }
  // Hidden features below a layer's own, and of all layers.
  int64_t hidden_before(int64_t layer) const {
    int64_t sum = 0;
    for (int64_t below = 0; below < layer; ++below) sum += out(below);
    return sum;
  }
  int64_t hidden() const { return hidden_before(layers() - 1); }
  int64_t parameters() const {
    int64_t sum = 0;
    for (int64_t layer = 0; layer < layers(); ++layer) sum += out(layer) * (in(layer) + 1);
    return sum;
  }
  int64_t widest() const {
    int64_t widest = 0;
    for (int64_t layer = 0; layer + 1 < layers(); ++layer) widest = std::max(widest, out(layer));
    return widest;
  }

  // y [rows, out] = finish(a [rows, in] weight^T)
  void forward(int64_t layer, const LayerRows& rows, const Tensor& like) const {
    multiply(rows, in(layer), out(layer), transposed_[layer], weights_[layer], like);
  }

  // y [rows, in] = finish(a [rows, out] weight)
  void backward(int64_t layer, const LayerRows& rows, const Tensor& like) const {
    multiply(rows, out(layer), in(layer), weights_[layer], transposed_[layer], like);
  }

 private:
  // By b [inner, cols], given so or, transposed, as [cols, inner]: at least the one that is needed.
  static void multiply(LayerRows rows, int64_t inner, int64_t cols, const Tensor& b, const Tensor& transposed,
                       const Tensor& like) {
    rows.inner = inner;
    rows.cols = cols;
    if (is_few(inner)) {
      rows.b = b.const_data_ptr();
      run(kernels().layer_outer, rows);
    } else if (is_few(cols) && inner > 0) {
      rows.b = transposed.const_data_ptr();
      run(kernels().layer_dots, rows);
    } else {
      const Tensor a = at::from_blob(const_cast<void*>(rows.a), {rows.rows, inner}, like.options());
      Tensor y = at::from_blob(rows.y, {rows.rows, cols}, like.options());
      at::mm_out(y, a, b.defined() ? b : transposed.t());
      run(kernels().layer_finish, rows);
    }
  }

  std::vector<Tensor> weights_;
  std::vector<Tensor> transposed_;  // where a layer has few inputs
};

const void* read_from(const Tensor& tensor, int64_t element) {
  return static_cast<const char*>(tensor.const_data_ptr()) + element * tensor.element_size();
}

void* write_to(const Tensor& tensor, int64_t element) {
  return static_cast<char*>(tensor.mutable_data_ptr()) + element * tensor.element_size();
}

// A cut of a batch into chunks of rows, and of these into runs, one for each worker. It follows from the shapes and the
// number of threads, and so do the bits of the sums.
struct Cut {
  int64_t rows, each, chunks, workers;

  Cut(int64_t batch, const Network& network) : rows(batch) {
    const int64_t parameters = std::max<int64_t>(network.parameters(), 1);
    const bool whole = parameters >= kLargeNetwork;
    const int64_t most = whole ? 1 : std::min<int64_t>(at::get_num_threads(), kSumElements / parameters);
    const int64_t share = parts_of(parts_of(batch, most), 16) * 16;
    each = std::max<int64_t>(whole ? batch : std::min(share, kChunkRows), 1);
    chunks = parts_of(batch, each);
    workers = std::min(most, chunks);
  }
  int64_t begin(int64_t chunk) const { return chunk * each; }
  int64_t size(int64_t chunk) const { return std::min(each, rows - begin(chunk)); }

  // Calls work(worker, chunk, first) for each chunk; `first` says that it is the worker's first one.
  template <class Work>
  void share_out(const Work& work) const {
    at::parallel_for(0, workers, 1, [&](int64_t from, int64_t to) {
      at::AutoDispatchBelowADInplaceOrView guard;  // belongs to the thread
      for (int64_t worker = from; worker < to; ++worker) {
        const int64_t start = worker * chunks / workers, stop = (worker + 1) * chunks / workers;
        for (int64_t chunk = start; chunk < stop; ++chunk) work(worker, chunk, chunk == start);
      }
    });
  }
};

// Two buffers for a chunk of hidden features for each worker, taken by turns.
class Turns {
 public:
  Turns(const Tensor& like, const Cut& cut, int64_t features)
      : elements_(cut.each * features), buffers_(at::empty({cut.workers * 2 * elements_}, like.options())) {}
  void* buffer(int64_t worker, int64_t turn) const { return write_to(buffers_, (2 * worker + turn % 2) * elements_); }

 private:
  int64_t elements_;
  Tensor buffers_;
};

// The gradient of a parameter [shape], or [0] where not needed, and each worker's share of it.
class ParameterGradient {
 public:
  ParameterGradient(at::IntArrayRef shape, bool needed, const Cut& cut, const at::TensorOptions& options) {
    if (!needed) {
      sum_ = at::empty({0}, options);
      return;
    }
    sum_ = cut.chunks == 0 ? at::zeros(shape, options) : at::empty(shape, options);
    std::vector<int64_t> shares(shape.vec());
    shares.insert(shares.begin(), std::max<int64_t>(cut.workers, 1) - 1);
    shares_ = at::empty(shares, options);
  }
  bool needed() const { return shares_.defined(); }
  // The first worker adds to the gradient itself.
  Tensor share(int64_t worker) const { return worker == 0 ? sum_ : shares_.select(0, worker - 1); }
  Tensor finish() const {
    if (needed()) {
      for (const Tensor& share : shares_.unbind(0)) sum_.add_(share);
    }
    return sum_;
  }

 private:
  Tensor sum_, shares_;
};

Tensor run_forward(const Network& network, const Tensor& input, TensorList biases, const Tensor* kept) {
  const int64_t batch = input.size(0), layers = network.layers();
  TORCH_CHECK_VALUE(static_cast<int64_t>(biases.size()) == layers, "sivae: ", biases.size(), " biases for ", layers,
                    " weights");
  std::vector<Tensor> bias(biases.begin(), biases.end());
  for (int64_t layer = 0; layer < layers; ++layer) {
    TORCH_CHECK_VALUE(bias[layer].dim() == 1 && bias[layer].size(0) == network.out(layer), "sivae: a bias has shape ",
                      bias[layer].sizes(), ", expected [", network.out(layer), "]");
    Network::check(bias[layer], input, "a bias");
    bias[layer] = bias[layer].contiguous();
  }
  const Tensor x = input.contiguous();
  const Tensor y = at::empty({batch, network.out(layers - 1)}, x.options());
  const Cut cut(batch, network);
  const Turns turns(x, cut, kept == nullptr ? network.widest() : 0);
  cut.share_out([&](int64_t worker, int64_t chunk, bool) {
    const int64_t begin = cut.begin(chunk);
    LayerRows rows;
    rows.dtype = dtype_of(x.scalar_type());
    rows.rows = cut.size(chunk);
    rows.a = read_from(x, begin * x.size(1));
    for (int64_t layer = 0; layer < layers; ++layer) {
      const bool last = layer + 1 == layers;
      rows.finish = last ? Finish::kBias : Finish::kBiasRelu;
      rows.bias = bias[layer].const_data_ptr();
      rows.y = last              ? write_to(y, begin * network.out(layer))
               : kept == nullptr ? turns.buffer(worker, layer)
                                 : write_to(*kept, batch * network.hidden_before(layer) + begin * network.out(layer));
      network.forward(layer, rows, x);
      rows.a = rows.y;
    }
  });
  return y;
}

Tensor relu_mlp(const Tensor& x, TensorList weights, TensorList biases) {
  return run_forward(Network(x, weights), x, biases, nullptr);
}

std::tuple<Tensor, Tensor> relu_mlp_with_hidden(const Tensor& x, TensorList weights, TensorList biases) {
  const Network network(x, weights);
  const Tensor hidden = at::empty({x.size(0) * network.hidden()}, x.options());
  return {run_forward(network, x, biases, &hidden), hidden};
}

// Those of one layer, from the chunk's gradients by what the layer puts out, rows.a [rows, out], and from what it was
// given, `activation` [rows, in].
void add_parameter_gradients(const LayerRows& rows, int64_t in, int64_t out, const void* activation,
                             const ParameterGradient& by_weight, const ParameterGradient& by_bias, int64_t worker,
                             bool add) {
  if (!by_weight.needed() && !by_bias.needed()) return;
  LayerSums sums;
  sums.dtype = rows.dtype;
  sums.rows = rows.rows;
  sums.add = add;
  sums.cols = sums.stride = out;
  sums.values = rows.a;
  if (by_bias.needed()) sums.plain = by_bias.share(worker).mutable_data_ptr();
  Tensor weight = by_weight.needed() ? by_weight.share(worker) : Tensor(), across;
  if (by_weight.needed() && Network::is_few(in)) {
    across = add ? weight.t().contiguous() : at::empty({in, out}, weight.options());
    sums.few = in;
    sums.factors = activation;
    sums.weighted = across.mutable_data_ptr();
  }
  if (by_bias.needed() || across.defined()) run_sums(sums);
  if (!by_weight.needed()) return;
  if (across.defined()) {
    weight.copy_(across.t());
  } else if (Network::is_few(out)) {
    sums.plain = nullptr;
    sums.few = out;
    sums.factors = rows.a;
    sums.values = activation;
    sums.cols = sums.stride = in;
    sums.weighted = weight.mutable_data_ptr();
    run_sums(sums);
  } else {
    const auto matrix = [&](const void* data, int64_t cols) {
      return at::from_blob(const_cast<void*>(data), {rows.rows, cols}, weight.options());
    };
    const Tensor left = matrix(rows.a, out).t(), right = matrix(activation, in);
    add ? at::addmm_out(weight, weight, left, right) : at::mm_out(weight, left, right);
  }
}

std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>> relu_mlp_backward(
    const Tensor& grad, const Tensor& input, TensorList weights, const Tensor& hidden, bool need_x,
    c10::List<bool> need_weights, c10::List<bool> need_biases) {
  const Network network(input, weights);
  const int64_t batch = input.size(0), layers = network.layers();
  TORCH_CHECK_VALUE(grad.dim() == 2 && grad.size(0) == batch && grad.size(1) == network.out(layers - 1),
                    "sivae: grad has shape ", grad.sizes(), ", expected [", batch, ", ", network.out(layers - 1), "]");
  Network::check(grad, input, "grad");
  TORCH_CHECK_VALUE(hidden.is_contiguous() && hidden.numel() == batch * network.hidden(), "sivae: hidden has shape ",
                    hidden.sizes(), ", expected [", batch * network.hidden(), "]");
  Network::check(hidden, input, "hidden");
  TORCH_CHECK_VALUE(static_cast<int64_t>(need_weights.size()) == layers && need_biases.size() == need_weights.size(),
                    "sivae: expected ", layers, " flags for weights and biases");

  const Tensor x = input.contiguous(), by_y = grad.contiguous();
  const auto options = x.options();
  const Cut cut(batch, network);
  const Tensor by_x = at::empty(need_x ? x.sizes() : at::IntArrayRef{0}, options);
  std::vector<ParameterGradient> by_weights, by_biases;
  int64_t lowest = need_x ? -1 : layers;  // that the chain has to reach; -1 is x
  for (int64_t layer = 0; layer < layers; ++layer) {
    by_weights.emplace_back(at::IntArrayRef{network.out(layer), network.in(layer)}, need_weights[layer], cut, options);
    by_biases.emplace_back(at::IntArrayRef{network.out(layer)}, need_biases[layer], cut, options);
    if (need_weights[layer] || need_biases[layer]) lowest = std::min(lowest, layer);
  }
  const Turns turns(x, cut, network.widest());
  if (lowest < layers) {
    cut.share_out([&](int64_t worker, int64_t chunk, bool first) {
      const int64_t begin = cut.begin(chunk);
      LayerRows rows;
      rows.dtype = dtype_of(x.scalar_type());
      rows.rows = cut.size(chunk);
      rows.a = read_from(by_y, begin * by_y.size(1));
      for (int64_t layer = layers - 1; layer >= std::max<int64_t>(lowest, 0); --layer) {
        const bool bottom = layer == 0;
        const void* activation =
            bottom ? read_from(x, begin * x.size(1))
                   : read_from(hidden, batch * network.hidden_before(layer - 1) + begin * network.in(layer));
        add_parameter_gradients(rows, network.in(layer), network.out(layer), activation, by_weights[layer],
                                by_biases[layer], worker, !first);
        if (layer == lowest) break;
        rows.finish = bottom ? Finish::kNothing : Finish::kMask;
        rows.activation = bottom ? nullptr : activation;
        rows.y = bottom ? write_to(by_x, begin * by_x.size(1)) : turns.buffer(worker, layer);
        network.backward(layer, rows, x);
        rows.a = rows.y;
      }
    });
  }
  const auto finished = [](const std::vector<ParameterGradient>& gradients) {
    std::vector<Tensor> tensors;
    for (const ParameterGradient& gradient : gradients) tensors.push_back(gradient.finish());
    return tensors;
  };
  return {by_x, finished(by_weights), finished(by_biases)};
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, CPU, m) {
  m.impl("relu_mlp", &relu_mlp);
  m.impl("relu_mlp_with_hidden", &relu_mlp_with_hidden);
  m.impl("relu_mlp_backward", &relu_mlp_backward);
}

}  // namespace sivae::cpu
