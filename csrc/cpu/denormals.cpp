#include "denormals.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

namespace sivae::cpu {

bool set_flush_denormal(bool on) {
  const bool there = at::globalContext().setFlushDenormal(on);
  // A range of one index for each thread.
  at::parallel_for(0, at::get_num_threads(), 1, [on](int64_t, int64_t) { at::globalContext().setFlushDenormal(on); });
  return there;
}

}  // namespace sivae::cpu
