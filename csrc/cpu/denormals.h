// Flush denormal numbers to zero, in every thread of torch's pool.
#pragma once

namespace sivae::cpu {

// Sets the mode of the calling thread and of the threads that at::parallel_for uses. False where the processor has none.
bool set_flush_denormal(bool on);

}  // namespace sivae::cpu
