// The functions that launch the log density of a mixture; launch.h has the conventions.
#pragma once

#include <cstdint>

#include "../arguments.h"

namespace sivae::cuda {

// z [N, L], with strides in elements. Everything else is dense and of the type that arithmetic runs in.
struct Mixture {
  DType dtype = DType::kFloat32;
  int64_t rows = 0, components = 0, dims = 0;
  const void* z = nullptr;
  int64_t z_row = 0, z_column = 0;
};

struct MixtureDensities : Mixture {
  const void* mu = nullptr;       // [L, K]
  const void* inv_std = nullptr;  // [L, K]
  const void* peaks = nullptr;    // [K]: the log density at the mean
  void* densities = nullptr;      // [N, K]
};

// The gradient of z: -sum_k shares (z - mu) / variance.
struct MixtureRowGradient : Mixture {
  const void* mu = nullptr;            // [K, L]
  const void* inv_variance = nullptr;  // [K, L]
  const void* shares = nullptr;        // [N, K]
  void* grad_z = nullptr;
  int64_t grad_row = 0, grad_column = 0;
};

// The sums of shares (z - mu) and of shares (z - mu)^2 over parts of the rows, `rows_each` of them.
struct MixtureComponentSums : Mixture {
  const void* mu = nullptr;      // [K, L]
  const void* shares = nullptr;  // [N, K]
  int64_t rows_each = 0;
  void* first = nullptr;   // [parts, K, L]
  void* second = nullptr;  // [parts, K, L]
};

int launch_mixture(const MixtureDensities& args, uint64_t stream);
int launch_mixture(const MixtureRowGradient& args, uint64_t stream);
int launch_mixture(const MixtureComponentSums& args, uint64_t stream);

}  // namespace sivae::cuda
