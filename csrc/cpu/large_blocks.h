// Memory for results of many megabytes.
#pragma once

#include <c10/core/Allocator.h>

namespace sivae::cpu {

// Results from this size on get blocks of their own: two huge pages.
constexpr size_t kLargeBytes = size_t{4} << 20;

// Allocates blocks of whole huge pages, and keeps up to 256 MiB of freed blocks for the next results of their size. The
// C library would return such blocks to the system or use small pages, and then the first access to each page would
// take longer than the kernel that fills it. Safe to call from any thread.
c10::Allocator& large_blocks();

}  // namespace sivae::cpu
