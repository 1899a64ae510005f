#include "large_blocks.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <mutex>

namespace sivae::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kKeptBytes = size_t{256} << 20;

struct Block {
  void* data;
  size_t size;
};

class LargeBlocks final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const size_t size = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    Block* block = take(size);
    if (block == nullptr) block = new Block{fresh(size), size};
    c10::profiledCPUMemoryReporter().New(block->data, size);
    return {block->data, block, &release, c10::Device(c10::DeviceType::CPU)};
  }

  void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }

 private:
  static void* fresh(size_t size) {
    void* data = nullptr;
    TORCH_CHECK_WITH(OutOfMemoryError, posix_memalign(&data, kHugePage, size) == 0,
                     "sivae: out of memory for a result of ", size, " bytes");
#if defined(MADV_HUGEPAGE)
    (void)madvise(data, size, MADV_HUGEPAGE);  // only advice: a system that ignores it changes nothing
#endif
    return data;
  }

  static void release(void* context);

  // Only try_lock: a process forked while another thread held the lock would wait for it forever.
  Block* take(size_t size) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return nullptr;
    const auto found = std::find_if(kept_.rbegin(), kept_.rend(), [&](const Block* b) { return b->size == size; });
    if (found == kept_.rend()) return nullptr;
    Block* block = *found;
    kept_.erase(std::next(found).base());
    kept_bytes_ -= size;
    return block;
  }

  void keep(Block* block) {
    std::deque<Block*> dropped{block};
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock.owns_lock() && block->size <= kKeptBytes) {
      kept_.push_back(block);
      kept_bytes_ += block->size;
      dropped.clear();
      for (; kept_bytes_ > kKeptBytes; kept_.pop_front()) {
        dropped.push_back(kept_.front());
        kept_bytes_ -= kept_.front()->size;
      }
    }
    for (Block* each : dropped) {
      std::free(each->data);
      delete each;
    }
  }

  std::mutex mutex_;
  std::deque<Block*> kept_;  // in the order in which they were freed
  size_t kept_bytes_ = 0;
};

LargeBlocks& blocks() {
  static auto* all = new LargeBlocks;  // never destroyed: results may outlive every static object
  return *all;
}

void LargeBlocks::release(void* context) {
  auto* block = static_cast<Block*>(context);
  c10::profiledCPUMemoryReporter().Delete(block->data);
  blocks().keep(block);
}

}  // namespace

c10::Allocator& large_blocks() { return blocks(); }

}  // namespace sivae::cpu
