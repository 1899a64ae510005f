#include "results.h"

#include "../operands.h"
#include "large_blocks.h"

namespace sivae::cpu {

at::Tensor empty_result(const at::Tensor& like) {
  if (like.numel() * like.element_size() < static_cast<int64_t>(kLargeBytes)) return at::empty_like(like);
  const at::Tensor shape = at::empty_like(like, like.options().device(at::kMeta));
  const size_t bytes = shape.storage().nbytes();
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, large_blocks().allocate(bytes), &large_blocks(),
                       /*resizable=*/true);
  return at::empty({0}, like.options()).set_(std::move(storage), 0, shape.sizes(), shape.strides());
}

double sum_in_pairs(const double* values, int64_t count, int64_t stride) {
  constexpr int64_t kInTurn = 8;
  if (count > kInTurn) {
    const int64_t half = count / 2;
    return sum_in_pairs(values, half, stride) + sum_in_pairs(values + half * stride, count - half, stride);
  }
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += values[i * stride];
  return sum;
}

at::Tensor PartialSums::finish() const {
  at::Tensor out = empty_sums(like_, reduction_);
  const int64_t rows = like_.size(0);
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "finish", [&] {
    scalar_t* data = out.data_ptr<scalar_t>();
    if (reduction_ == 0) {
      for (int64_t row = 0; row < rows; ++row) {
        data[row] = static_cast<scalar_t>(sum_in_pairs(values_.get() + row * per_row_, per_row_));
      }
      return;
    }
    const double total = sum_in_pairs(values_.get(), rows * per_row_);
    const bool mean = reduction_ == 1;
    data[0] = static_cast<scalar_t>(mean ? total / static_cast<double>(rows) : total);  // 0 / 0 of no samples is NaN
  });
  return out;
}

}  // namespace sivae::cpu
