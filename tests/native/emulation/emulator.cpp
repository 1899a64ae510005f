// The emulator behind cuda_runtime.h: fibers, barriers and warp operations; their misuse ends the process.
#undef _FORTIFY_SOURCE  // its longjmp refuses to jump to another stack

#include "cuda_runtime.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// Defined by the linker where a kernel has shared memory.
extern "C" __attribute__((weak, visibility("hidden"))) char __start_sivae_shared[], __stop_sivae_shared[];

namespace sivae_emulation {
namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxSharedBytes = 48 << 10;
constexpr size_t kStackBytes = 256 << 10;  // address space; only pages in use take memory
constexpr size_t kGuardBytes = 64 << 10;   // below each stack, a multiple of every page size

enum class State { kReady, kRunning, kAtBarrier, kAtWarpOp, kExited };

struct Thread {
  State state;
  Site site;
  uint3 index;
  // Of a warp operation:
  WarpOp op;
  unsigned mask;
  int argument, width;
  uint64_t value;  // the lane's input, then its result
};

// A stack and the place where its code continues. It is reused: after one CUDA thread it waits for the next.
struct Fiber {
  bool started = false;
  char* stack = nullptr;
  ucontext_t entry;
  jmp_buf resume;
};

struct Warp {
  unsigned alive = 0, waiting = 0;  // one bit per lane
};

// The state of the launch that holds the mutex.
std::mutex mutex;
const char* kernel_name;
void (*run_thread)(const void*);
const void* run_closure;
Thread threads[kMaxThreads];
Fiber fibers[kMaxThreads];
Warp warps[kMaxThreads / warpSize];
unsigned thread_count, alive, at_barrier;
unsigned current;
jmp_buf scheduler;
cudaError_t last_error = cudaSuccess;

// The order of turns: -1, 1, or 0 for random.
struct Order {
  int direction = 1;
  std::minstd_rand random;

  Order() {
    const char* variable = getenv("SIVAE_EMULATION_ORDER");
    const std::string name = variable == nullptr ? "forward" : variable;
    if (name == "reverse") {
      direction = -1;
    } else if (name.rfind("random", 0) == 0) {
      direction = 0;
      if (name.size() > 7) random.seed(static_cast<unsigned>(strtoul(name.c_str() + 7, nullptr, 10)));
    } else if (name != "forward") {
      fprintf(stderr,
              "CUDA emulation: SIVAE_EMULATION_ORDER is '%s', expected forward, reverse, random or random:SEED\n",
              name.c_str());
      abort();
    }
  }
};

Order& order() {
  static Order once;
  return once;
}

std::string text_of(Site site) {
  const char* slash = strrchr(site.file, '/');
  return std::string(slash == nullptr ? site.file : slash + 1) + ":" + std::to_string(site.line);
}

void print_threads() {
  static const char* const kOps[] = {"__syncwarp",  "__ballot_sync",  "__any_sync",       "__all_sync",
                                     "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
  const auto alike = [](const Thread& a, const Thread& b) {
    if (a.state != b.state) return false;
    if (a.state != State::kAtBarrier && a.state != State::kAtWarpOp) return true;
    if (a.site.line != b.site.line || strcmp(a.site.file, b.site.file) != 0) return false;
    return a.state == State::kAtBarrier || (a.op == b.op && a.mask == b.mask);
  };
  for (unsigned first = 0, next; first < thread_count; first = next) {
    const Thread& thread = threads[first];
    for (next = first + 1; next < thread_count && alike(thread, threads[next]);) ++next;
    fprintf(stderr, next == first + 1 ? "  thread %u" : "  threads %u to %u", first, next - 1);
    switch (thread.state) {
      case State::kReady: fprintf(stderr, ": ready to run"); break;
      case State::kRunning: fprintf(stderr, ": running"); break;
      case State::kExited: fprintf(stderr, ": exited"); break;
      case State::kAtBarrier: fprintf(stderr, ": in __syncthreads at %s", text_of(thread.site).c_str()); break;
      case State::kAtWarpOp:
        fprintf(stderr, ": in %s at %s, mask 0x%08x", kOps[static_cast<int>(thread.op)], text_of(thread.site).c_str(),
                thread.mask);
        break;
    }
    fprintf(stderr, "\n");
  }
}

[[noreturn]] void die(const std::string& what) {
  fprintf(stderr, "CUDA emulation: %s\n  in block (%u, %u, %u) of (%u, %u, %u), each of (%u, %u, %u) threads, of %s\n",
          what.c_str(), blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z, blockDim.x, blockDim.y,
          blockDim.z, kernel_name);
  print_threads();
  fflush(stderr);
  abort();
}

// The sanitizer must know which stack is in use. `leaving` is null where the current stack is not needed again.
#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack;
size_t scheduler_stack_bytes;
void* scheduler_fake_stack;
void before_switch_to_fiber() {
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, fibers[current].stack, kStackBytes);
}
void after_switch_to_fiber() {
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
}
void before_switch_to_scheduler() {
  void* unused;  // fibers have no fake stack: detect_stack_use_after_return is off
  __sanitizer_start_switch_fiber(&unused, scheduler_stack, scheduler_stack_bytes);
}
void after_switch_to_scheduler() { __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr); }
#else
void before_switch_to_fiber() {}
void after_switch_to_fiber() {}
void before_switch_to_scheduler() {}
void after_switch_to_scheduler() {}
#endif

// Called on a fiber; returns at its next turn. _setjmp and _longjmp, unlike swapcontext, make no system call.
void suspend() {
  before_switch_to_scheduler();
  if (_setjmp(fibers[current].resume) == 0) _longjmp(scheduler, 1);
  after_switch_to_fiber();
}

void complete_warp_ops(unsigned index);

void release_barrier_when_complete() {
  if (at_barrier == 0 || at_barrier != alive) return;
  const Thread* first = nullptr;
  for (unsigned t = 0; t < thread_count; ++t) {
    if (threads[t].state != State::kAtBarrier) continue;
    if (first == nullptr) first = &threads[t];
    if (threads[t].site.line != first->site.line || strcmp(threads[t].site.file, first->site.file) != 0) {
      die("the threads of a block wait in different __syncthreads");
    }
  }
  for (unsigned t = 0; t < thread_count; ++t) {
    if (threads[t].state == State::kAtBarrier) threads[t].state = State::kReady;
  }
  at_barrier = 0;
}

void fiber_main() {
  after_switch_to_fiber();
  for (;;) {
    run_thread(run_closure);
    threads[current].state = State::kExited;
    --alive;
    warps[current / warpSize].alive &= ~(1u << current % warpSize);
    complete_warp_ops(current / warpSize);
    release_barrier_when_complete();
    suspend();
  }
}

void start(Fiber& fiber) {
  fiber.started = true;
  const size_t bytes = kGuardBytes + kStackBytes;
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) die("out of memory for a stack");
  fiber.stack = static_cast<char*>(memory) + kGuardBytes;
  getcontext(&fiber.entry);
  fiber.entry.uc_stack.ss_sp = fiber.stack;
  fiber.entry.uc_stack.ss_size = kStackBytes;
  fiber.entry.uc_link = nullptr;
  makecontext(&fiber.entry, fiber_main, 0);
}

void take_turn(unsigned thread) {
  current = thread;
  threads[thread].state = State::kRunning;
  threadIdx = threads[thread].index;
  Fiber& fiber = fibers[thread];
  const bool fresh = !fiber.started;
  if (fresh) start(fiber);
  before_switch_to_fiber();
  if (_setjmp(scheduler) == 0) {
    if (fresh) setcontext(&fiber.entry);
    _longjmp(fiber.resume, 1);
  }
  after_switch_to_scheduler();
}

bool is_shuffle(WarpOp op) { return op >= WarpOp::kShuffle; }

// The lane that a shuffle of `lane` reads; `lane` itself where that is outside its segment.
int source_lane(const Thread& thread, int lane) {
  const int first = lane & ~(thread.width - 1), last = first + thread.width - 1;
  switch (thread.op) {
    case WarpOp::kShuffle: return first | (thread.argument & (thread.width - 1));
    case WarpOp::kShuffleUp: return lane - (thread.argument & 31) >= first ? lane - (thread.argument & 31) : lane;
    case WarpOp::kShuffleDown: return lane + (thread.argument & 31) <= last ? lane + (thread.argument & 31) : lane;
    // Lanes of earlier segments can be read, those of later ones cannot.
    default: return (lane ^ (thread.argument & 31)) <= last ? lane ^ (thread.argument & 31) : lane;
  }
}

// Completes the operation in which `leader` waits, when all lanes of its mask have arrived.
void complete_warp_op(unsigned index, int leader) {
  Warp& warp = warps[index];
  Thread* const lanes = threads + index * warpSize;
  const WarpOp op = lanes[leader].op;
  const unsigned mask = lanes[leader].mask, present = mask & warp.alive;
  if (is_shuffle(op) && present != mask) die("a lane that the mask of a shuffle names has exited or does not exist");
  if ((warp.waiting & present) != present) return;
  uint64_t given[warpSize], ballot = 0;
  for (int lane = 0; lane < warpSize; ++lane) {
    if ((present >> lane & 1u) == 0) continue;
    if (lanes[lane].op != op || lanes[lane].mask != mask) return;  // still in another operation
    given[lane] = lanes[lane].value;
    ballot |= (given[lane] & 1u) << lane;
  }
  for (int lane = 0; lane < warpSize; ++lane) {
    if ((present >> lane & 1u) == 0) continue;
    uint64_t& result = lanes[lane].value;
    switch (op) {
      case WarpOp::kSync: break;
      case WarpOp::kBallot: result = ballot; break;
      case WarpOp::kAny: result = ballot != 0; break;
      case WarpOp::kAll: result = ballot == present; break;
      default: {
        const int source = source_lane(lanes[lane], lane);
        if ((mask >> source & 1u) == 0) die("a shuffle reads a lane that its mask does not name");
        result = given[source];
      }
    }
  }
  for (int lane = 0; lane < warpSize; ++lane) {
    if (present >> lane & 1u) lanes[lane].state = State::kReady;
  }
  warp.waiting &= ~present;
}

void complete_warp_ops(unsigned index) {
  for (int lane = 0; lane < warpSize; ++lane) {
    if (warps[index].waiting >> lane & 1u) complete_warp_op(index, lane);
  }
}

// Shared memory starts as NaN, or -1, in every block: nothing may be read before it is written.
__attribute__((no_sanitize("address"))) void spoil_shared_memory() {
  for (volatile char* byte = __start_sivae_shared; byte != __stop_sivae_shared; ++byte) *byte = -1;
}

void run_block() {
  spoil_shared_memory();
  thread_count = alive = blockDim.x * blockDim.y * blockDim.z;
  at_barrier = 0;
  for (Warp& warp : warps) warp = {};
  for (unsigned t = 0; t < thread_count; ++t) {
    threads[t].state = State::kReady;
    threads[t].index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
    warps[t / warpSize].alive |= 1u << t % warpSize;
  }
  static unsigned turns[kMaxThreads];
  std::iota(turns, turns + thread_count, 0u);
  if (order().direction < 0) std::reverse(turns, turns + thread_count);
  while (alive > 0) {
    if (order().direction == 0) std::shuffle(turns, turns + thread_count, order().random);
    bool progress = false;
    for (unsigned turn = 0; turn < thread_count; ++turn) {
      if (threads[turns[turn]].state != State::kReady) continue;
      take_turn(turns[turn]);
      progress = true;
    }
    if (!progress) die("deadlock: every thread that has not exited waits for another");
  }
}

cudaError_t refuse(cudaError_t error) { return last_error = error; }

}  // namespace

void fail(const char* what, Site site) {
  die(std::string(what) + ": thread " + std::to_string(current) + " at " + text_of(site));
}

void barrier(Site site) {
  Thread& self = threads[current];
  self.state = State::kAtBarrier;
  self.site = site;
  ++at_barrier;
  release_barrier_when_complete();
  if (self.state != State::kReady) suspend();
}

uint64_t warp(WarpOp op, unsigned mask, uint64_t value, int argument, int width, Site site) {
  const unsigned index = current / warpSize, lane = current % warpSize;
  if ((mask >> lane & 1u) == 0) fail("a lane takes part in a warp operation whose mask does not name it", site);
  if (width < 1 || width > warpSize || (width & (width - 1)) != 0) {
    fail("the width of a shuffle is no power of 2 up to 32", site);
  }
  Thread& self = threads[current];
  self.state = State::kAtWarpOp;
  self.site = site;
  self.op = op;
  self.mask = mask;
  self.argument = argument;
  self.width = width;
  self.value = value;
  warps[index].waiting |= 1u << lane;
  complete_warp_op(index, static_cast<int>(lane));
  if (self.state != State::kReady) suspend();
  return self.value;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const char* kernel, void (*run)(const void*), const void* closure) {
  const std::lock_guard lock(mutex);
  const dim3 grid = config.gridDim, block = config.blockDim;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;  // below 2^63 within the limits
  const bool fits = grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535 && block.x <= kMaxThreads &&
                    block.y <= kMaxThreads && block.z <= 64 && uint64_t{block.x} * block.y * block.z <= kMaxThreads;
  if (!fits || blocks == 0 || block.x == 0 || block.y == 0 || block.z == 0) return refuse(cudaErrorInvalidConfiguration);
  if (config.dynamicSmemBytes > kMaxSharedBytes) return refuse(cudaErrorInvalidValue);
  kernel_name = kernel;
  run_thread = run;
  run_closure = closure;
  gridDim = grid;
  blockDim = block;
  const uint64_t first = order().direction == 0 ? order().random() % blocks : 0;
  for (uint64_t turn = 0; turn < blocks; ++turn) {
    const uint64_t index = order().direction < 0 ? blocks - 1 - turn : (first + turn) % blocks;
    blockIdx.x = static_cast<unsigned>(index % grid.x);
    blockIdx.y = static_cast<unsigned>(index / grid.x % grid.y);
    blockIdx.z = static_cast<unsigned>(index / grid.x / grid.y);
    run_block();
  }
  return cudaSuccess;
}

}  // namespace sivae_emulation

cudaError_t cudaGetLastError() { return std::exchange(sivae_emulation::last_error, cudaSuccess); }

cudaError_t cudaPeekAtLastError() { return sivae_emulation::last_error; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
  }
  return "unrecognized error code";
}

cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return sivae_emulation::refuse(cudaErrorInvalidValue);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; return cudaSuccess;
    case cudaDevAttrWarpSize: *value = 32; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = 132; return cudaSuccess;
    case cudaDevAttrL2CacheSize: *value = 50 << 20; return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; return cudaSuccess;
  }
  return sivae_emulation::refuse(cudaErrorInvalidValue);
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  memset(data, value, bytes);
  return cudaSuccess;
}
