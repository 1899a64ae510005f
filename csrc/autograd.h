// Shared parts of the native ops' autograd functions. They are in C++ because Python would take longer than the kernels
// on small tensors.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>

namespace sivae {

using at::Tensor;
using std::optional;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

template <class Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow((std::string("sivae_native::") + name).c_str(), "")
      .typed<Signature>();
}

inline optional<Tensor> if_defined(const Tensor& tensor) {
  return tensor.defined() ? optional<Tensor>(tensor) : std::nullopt;
}

inline Tensor if_needed(Tensor gradient, bool needed) { return needed ? std::move(gradient) : Tensor(); }

// The results of an op as a list, which autograd expects.
template <class... Outputs>
variable_list as_list(const std::tuple<Outputs...>& outputs) {
  return std::apply([](const auto&... output) { return variable_list{output...}; }, outputs);
}

template <class Outputs>
Outputs from_list(const variable_list& list) {
  Outputs outputs;
  size_t index = 0;
  std::apply([&](auto&... output) { ((output = list[index++]), ...); }, outputs);
  return outputs;
}

// A backward pass that cannot be differentiated again: trying raises an error that names the op.
template <class Compute>
struct OnceDifferentiable : Function<OnceDifferentiable<Compute>> {
  static variable_list forward(AutogradContext* ctx, at::TensorList /* what the outputs depend on */,
                               const Compute& compute, const std::string& name) {
    ctx->saved_data["name"] = name;
    return as_list(compute());
  }
  static variable_list backward(AutogradContext* ctx, const variable_list&) {
    TORCH_CHECK(false, "sivae.ops.", ctx->saved_data["name"].toStringRef(),
                ": no second derivative on this backend; pass backend=\"reference\" where you differentiate twice");
  }
};

template <class Compute>
auto once_differentiable(const char* name, const variable_list& inputs, const Compute& compute) {
  const auto below = [&] {
    at::AutoDispatchBelowADInplaceOrView guard;
    return compute();
  };
  if (!at::GradMode::is_enabled() || !torch::autograd::compute_requires_grad(inputs)) return below();
  variable_list defined;
  for (const Tensor& input : inputs) {
    if (input.defined()) defined.push_back(input);
  }
  return from_list<decltype(below())>(
      OnceDifferentiable<decltype(below)>::apply(at::TensorList(defined), below, std::string(name)));
}

}  // namespace sivae
