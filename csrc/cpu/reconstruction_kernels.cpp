// The reconstruction error, forward and backward. Compiled per instruction set.
#include "access.h"
#include "isa.h"
#include "../reconstruction.h"

namespace sivae::cpu::SIVAE_ISA {
namespace {

template <Kind kind, class T>
double sum_terms(const T* __restrict recon, const T* __restrict target, int64_t count) {
  T sum = T(0);
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += rec_term<kind>(recon[i], target[i]);
  return static_cast<double>(sum);
}

template <Kind kind, class T>
void grad_recon_run(const T* __restrict recon, const T* __restrict target, T weight, T* __restrict out, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] = weight * rec_grad_recon<kind>(recon[i], target[i]);
}

template <Kind kind, class T>
void grad_target_run(const T* __restrict recon, const T* __restrict target, T weight, T* __restrict out,
                     int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] = weight * rec_grad_target<kind>(recon[i], target[i]);
}

template <class T>
using GradientRun = void(const T* recon, const T* target, T weight, T* out, int64_t count);

// The arithmetic of one kind. Conversion and strides are handled outside, so it is compiled once per compute type.
template <class T>
struct KindFunctions {
  double (*sum_terms)(const T*, const T*, int64_t);
  GradientRun<T>* grad_recon;
  GradientRun<T>* grad_target;
};

template <class T>
KindFunctions<T> functions_of(int kind) {
  switch (static_cast<Kind>(kind)) {
    case Kind::kMse: return {sum_terms<Kind::kMse, T>, grad_recon_run<Kind::kMse, T>, grad_target_run<Kind::kMse, T>};
    case Kind::kL1: return {sum_terms<Kind::kL1, T>, grad_recon_run<Kind::kL1, T>, grad_target_run<Kind::kL1, T>};
    case Kind::kBce: return {sum_terms<Kind::kBce, T>, grad_recon_run<Kind::kBce, T>, grad_target_run<Kind::kBce, T>};
    case Kind::kBceWithLogits: break;
  }
  return {sum_terms<Kind::kBceWithLogits, T>, grad_recon_run<Kind::kBceWithLogits, T>,
          grad_target_run<Kind::kBceWithLogits, T>};
}

// Elements that the backward pass takes at a time: few, so that the processor still waits for the reads of one block
// while it computes and writes the one before.
constexpr int64_t kGradientBlock = 256;

// Calls visit(block) for pieces of at most `size` columns of one row each.
template <class Visit>
void for_each_block(const Piece& p, int64_t size, Visit visit) {
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t c = 0; c < p.cols; c += size) {
      visit(Piece{p.row + r, 1, p.col + c, p.cols - c < size ? p.cols - c : size});
    }
  }
}

template <class S>
void forward(const RecForward& a, int64_t begin, int64_t end) {
  using T = typename ComputeType<S>::type;
  alignas(64) T recon_buffer[kPieceElements], target_buffer[kPieceElements];
  const Segments segments(a.layout, kReconstructionSegment);
  const KindFunctions<T> functions = functions_of<T>(a.kind);
  for (int64_t index = begin; index < end; ++index) {
    const Piece p = piece_of(a.layout, segments, index);
    double* sums = static_cast<double*>(a.sums) + (segments.per_row == 1 ? p.row : index);
    for_each_block(p, kPieceElements, [&](const Piece& block) {
      const T* recon = load<S>(a.layout, a.recon, block, recon_buffer);
      const T* target = load<S>(a.layout, a.target, block, target_buffer);
      sums[block.row - p.row] += functions.sum_terms(recon, target, block.cols);
    });
  }
}

// One gradient of one block.
template <class S, class T>
void grad_block(const RecBackward& a, const Strided& grad, const Piece& block, const T* recon, const T* target,
                GradientRun<T>* run, T* buffer) {
  const T weight = static_cast<T>(row_gradient<T>(a.grad, block.row));
  write_piece<S>(a.layout, grad, block, buffer, a.stream, [&](int64_t at, int64_t size, T* to) {
    run(recon + at, target + at, weight, to, size);
  });
}

template <class S>
void backward_segments(const RecBackward& a, const Segments& segments, int64_t begin, int64_t end) {
  using T = typename ComputeType<S>::type;
  alignas(64) T recon_buffer[kGradientBlock], target_buffer[kGradientBlock], out_buffer[kGradientBlock];
  const KindFunctions<T> functions = functions_of<T>(a.kind);
  for (int64_t index = begin; index < end; ++index) {
    for_each_block(piece_of(a.layout, segments, index), kGradientBlock, [&](const Piece& block) {
      const T* recon = load_in_turn<S>(a.layout, a.recon, block, recon_buffer);
      const T* target = load_in_turn<S>(a.layout, a.target, block, target_buffer);
      if (a.grad_recon.data != nullptr) {
        grad_block<S>(a, a.grad_recon, block, recon, target, functions.grad_recon, out_buffer);
      }
      if (a.grad_target.data != nullptr) {
        grad_block<S>(a, a.grad_target, block, recon, target, functions.grad_target, out_buffer);
      }
    });
  }
}

template <class S>
void backward(const RecBackward& a, int64_t begin, int64_t end) {
  const Segments segments(a.layout, kReconstructionSegment);
  from_the_end(begin, end, kReconstructionSegment,
               [&](int64_t first, int64_t last) { backward_segments<S>(a, segments, first, last); });
  if (a.stream) stream_fence();
}

}  // namespace

void rec_forward(const RecForward& a, int64_t begin, int64_t end) {
  with_storage_type(a.dtype, [&](auto s) { forward<decltype(s)>(a, begin, end); });
}

void rec_backward(const RecBackward& a, int64_t begin, int64_t end) {
  with_storage_type(a.dtype, [&](auto s) { backward<decltype(s)>(a, begin, end); });
}

}  // namespace sivae::cpu::SIVAE_ISA
