// The reconstruction error of one element and its derivatives. Kinds in the order of KINDS in sivae/ops/library.py.
#pragma once

#include "platform.h"
#include "scalar_math.h"

namespace sivae {

enum class Kind : int { kMse = 0, kL1 = 1, kBce = 2, kBceWithLogits = 3 };

// max(x, -100), as in torch's BCE; NaN stays NaN.
template <class T>
SIVAE_HD T floored_log(T log_value) {
  return log_value < T(-100) ? T(-100) : log_value;
}

template <Kind kind, class T>
SIVAE_HD T rec_term(T recon, T target) {
  if constexpr (kind == Kind::kMse) {
    return (recon - target) * (recon - target);
  } else if constexpr (kind == Kind::kL1) {
    return abs_(recon - target);
  } else if constexpr (kind == Kind::kBce) {
    return -(target * floored_log(log_(recon)) + (T(1) - target) * floored_log(log1p_(-recon)));
  } else {
    // max(recon, 0) - recon target, without cancellation.
    return recon * (recon >= T(0) ? T(1) - target : -target) + log1p_of_unit(exp_(-abs_(recon)));
  }
}

// d rec_term / d recon.
template <Kind kind, class T>
SIVAE_HD T rec_grad_recon(T recon, T target) {
  if constexpr (kind == Kind::kMse) {
    return T(2) * (recon - target);
  } else if constexpr (kind == Kind::kL1) {
    const T difference = recon - target;
    const T sign = difference > T(0) ? T(1) : (difference < T(0) ? T(-1) : difference);  // 0 and NaN stay as they are
    return sign;
  } else if constexpr (kind == Kind::kBce) {
    const T variance = recon * (T(1) - recon);
    return (recon - target) / (variance < T(1e-12) ? T(1e-12) : variance);
  } else {
    const T e = exp_(-abs_(recon));
    const T sigmoid = (recon >= T(0) ? T(1) : e) / (T(1) + e);
    return sigmoid - target;
  }
}

// d rec_term / d target.
template <Kind kind, class T>
SIVAE_HD T rec_grad_target(T recon, T target) {
  if constexpr (kind == Kind::kMse || kind == Kind::kL1) {
    return -rec_grad_recon<kind>(recon, target);
  } else if constexpr (kind == Kind::kBce) {
    return floored_log(log1p_(-recon)) - floored_log(log_(recon));
  } else {
    return -recon;
  }
}

}  // namespace sivae
