#include "parallel/comm/fiber.h"

#include <cxxabi.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "io/base/types.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

// void elaswave_fiber_swap(void** save, void* load): pushes what the System V ABI (x86-64,
// section 3.2.1) makes the callee keep, stores the stack pointer in *save, takes over `load` and
// pops the same from there. A new stack holds the same frame with elaswave_fiber_start as return
// address and the fiber in rbx.
asm(R"(
.pushsection .text
.globl elaswave_fiber_swap
.hidden elaswave_fiber_swap
.type elaswave_fiber_swap, @function
.p2align 4
elaswave_fiber_swap:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  subq $8, %rsp
  stmxcsr (%rsp)
  fnstcw 4(%rsp)
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  ldmxcsr (%rsp)
  fldcw 4(%rsp)
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size elaswave_fiber_swap, . - elaswave_fiber_swap

.globl elaswave_fiber_start
.hidden elaswave_fiber_start
.type elaswave_fiber_start, @function
.p2align 4
elaswave_fiber_start:
  .cfi_startproc
  .cfi_undefined rip
  movq %rbx, %rdi
  xorl %ebp, %ebp
  call elaswave_fiber_entry
  ud2
  .cfi_endproc
.size elaswave_fiber_start, . - elaswave_fiber_start
.popsection
)");

extern "C" {
void elaswave_fiber_swap(void** save, void* load);
void elaswave_fiber_start();
void elaswave_fiber_entry(elaswave::comm::Fiber* fiber);
}

namespace elaswave::comm {

// Itanium C++ ABI: Exception Handling, section 2.2.2; <cxxabi.h> declares the type without its
// fields.
struct EhGlobals {
  void* caught_exceptions;
  unsigned int uncaught_exceptions;
};

namespace {

EhGlobals& eh_globals() {
  return *reinterpret_cast<EhGlobals*>(abi::__cxa_get_globals());
}

#if defined(__SANITIZE_ADDRESS__)
void before_swap(FiberContext& from, const FiberContext& to, bool leaves_for_good) {
  __sanitizer_start_switch_fiber(leaves_for_good ? nullptr : &from.asan_fake_stack, to.stack_bottom,
                                 to.stack_bytes);
}
// `came_from` learns its own stack bounds: nobody else knows those of the thread.
void after_swap(FiberContext& self, FiberContext& came_from) {
  __sanitizer_finish_switch_fiber(self.asan_fake_stack, &came_from.stack_bottom,
                                  &came_from.stack_bytes);
}
void forget_stack(void* stack, std::size_t bytes) {
  __asan_unpoison_memory_region(stack, bytes);
}
#elif defined(__SANITIZE_THREAD__)
// Not instrumented, like swap_to: entry and exit would be booked on different fibers.
[[gnu::no_sanitize("thread")]] void before_swap(FiberContext& from, const FiberContext& to, bool) {
  from.tsan_fiber = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to.tsan_fiber, 0);
}
void after_swap(FiberContext&, FiberContext&) {}
void forget_stack(void*, std::size_t) {}
#else
void before_swap(FiberContext&, const FiberContext&, bool) {}
void after_swap(FiberContext&, FiberContext&) {}
void forget_stack(void*, std::size_t) {}
#endif

enum class Leaving : std::uint8_t { for_now, for_good };

[[gnu::noinline, gnu::no_sanitize("thread")]] void swap_to(FiberContext& from, FiberContext& to,
                                                           Leaving leaving) {
  EhGlobals& globals = eh_globals();
  from.caught_exceptions = globals.caught_exceptions;
  from.uncaught_exceptions = globals.uncaught_exceptions;
  globals.caught_exceptions = to.caught_exceptions;
  globals.uncaught_exceptions = to.uncaught_exceptions;
  before_swap(from, to, leaving == Leaving::for_good);
  elaswave_fiber_swap(&from.stack_pointer, to.stack_pointer);
  after_swap(from, to);
}

Error mapping_error(std::size_t bytes) {
  return {.code = Code::does_not_fit,
          .what = "no memory for the stack of a simulated rank",
          .where = fmt::format("{} bytes", bytes),
          .why = std::strerror(errno),
          .fix = "simulate fewer ranks, or raise the limit of mappings (vm.max_map_count)"};
}

}  // namespace

Result<std::unique_ptr<Fiber>> Fiber::make(std::int64_t stack_bytes, std::function<void()> body) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto usable =
      static_cast<std::size_t>(round_up(stack_bytes, static_cast<std::int64_t>(page)));
  const std::size_t total = usable + page;
  void* mapping = mmap(nullptr, total, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (mapping == MAP_FAILED) return fail(mapping_error(total));
  std::unique_ptr<Fiber> fiber(new Fiber);
  fiber->mapping_ = mapping;
  fiber->mapping_bytes_ = total;
  if (mprotect(mapping, page, PROT_NONE) != 0) return fail(mapping_error(total));
  auto* bottom = static_cast<std::byte*>(mapping) + page;
  fiber->body_ = std::move(body);
  fiber->own_.stack_bottom = bottom;
  fiber->own_.stack_bytes = usable;
  // The frame elaswave_fiber_swap pops: control words, r15..r12, rbx, rbp, return address; then one
  // word so that the stack is 16-byte aligned at the call in elaswave_fiber_start.
  auto* frame = reinterpret_cast<std::uint64_t*>(bottom + usable) - 10;
  std::uint32_t mxcsr = 0;
  std::uint16_t x87 = 0;
  asm volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr), "=m"(x87));
  frame[0] = mxcsr | std::uint64_t{x87} << 32;
  for (int i = 1; i <= 6; ++i) frame[i] = 0;
  frame[5] = reinterpret_cast<std::uint64_t>(fiber.get());
  frame[7] = reinterpret_cast<std::uint64_t>(&elaswave_fiber_start);
  fiber->own_.stack_pointer = frame;
#if defined(__SANITIZE_THREAD__)
  fiber->own_.tsan_fiber = __tsan_create_fiber(0);
#endif
  return fiber;
}

Fiber::~Fiber() {
#if defined(__SANITIZE_THREAD__)
  if (own_.tsan_fiber != nullptr) __tsan_destroy_fiber(own_.tsan_fiber);
#endif
  if (mapping_ == nullptr) return;
  forget_stack(mapping_, mapping_bytes_);
  munmap(mapping_, mapping_bytes_);
}

void Fiber::resume() {
  EW_CHECK(!finished_, "resume of a finished fiber");
  swap_to(resumer_, own_, Leaving::for_now);
}

void Fiber::suspend() {
  swap_to(own_, resumer_, Leaving::for_now);
}

void Fiber::entry(Fiber* fiber) {
  after_swap(fiber->own_, fiber->resumer_);
  fiber->body_();
  fiber->finished_ = true;
  swap_to(fiber->own_, fiber->resumer_, Leaving::for_good);
}

void fiber_entry(Fiber* fiber) {
  Fiber::entry(fiber);
}

}  // namespace elaswave::comm

void elaswave_fiber_entry(elaswave::comm::Fiber* fiber) {
  elaswave::comm::fiber_entry(fiber);
}
