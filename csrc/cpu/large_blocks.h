// Memory for results of many megabytes.
#pragma once

#include <c10/core/Allocator.h>

namespace sivae::cpu {

// From here on a result is worth blocks of its own: two huge pages.
constexpr size_t kLargeBytes = size_t{4} << 20;

// Blocks of whole huge pages. The last ones that were freed are kept for the next results of their size, 256 MiB
// at most: the C library gives blocks of this size back to the system, or cuts them out of small pages, and the first
// touch of each page would then take longer than the kernel that fills it. Safe to call from any thread.
c10::Allocator& large_blocks();

}  // namespace sivae::cpu
