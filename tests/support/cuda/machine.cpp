#include "tests/support/cuda/machine.h"

#include <algorithm>
#include <csignal>
#include <cstdio>

namespace elaswave::emulator {
namespace {

struct sigaction previous_action;  // of whoever handled faults before: the system or a sanitizer

// Emulated libraries are compiled to trap where an address is no multiple of the access' width.
void on_trap(int, siginfo_t*, void*) {
  std::signal(SIGILL, SIG_DFL);
  if (current.kernel != nullptr)
    std::fprintf(stderr,
                 "emulator: a kernel used an address that is no multiple of what it read or wrote; "
                 "launched at %s:%u, block (%u, %u, %u), thread %u\n",
                 current.kernel->file_name(), current.kernel->line(), current.block.x,
                 current.block.y, current.block.z, current.index.x);
}

// Says who touched what it may not, and lets the fault happen again under the previous handler.
void on_fault(int, siginfo_t* info, void*) {
  sigaction(SIGSEGV, &previous_action, nullptr);
  if (!Machine::get().memory().owns(info->si_addr)) return;
  if (current.kernel == nullptr)
    std::fprintf(stderr, "emulator: host code touched device memory at %p, or what was behind it\n",
                 info->si_addr);
  else
    std::fprintf(stderr,
                 "emulator: a kernel touched %p, which is no allocation; launched at %s:%u, "
                 "block (%u, %u, %u), thread %u\n",
                 info->si_addr, current.kernel->file_name(), current.kernel->line(),
                 current.block.x, current.block.y, current.block.z, current.index.x);
}

void watch_faults() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, &previous_action);
  action.sa_sigaction = on_trap;
  sigaction(SIGILL, &action, nullptr);
}

}  // namespace

Machine& Machine::get() {
  static Machine machine;  // the runtime it stands for is one per process
  return machine;
}

Machine::Machine() {
  watch_faults();
}

void Machine::reset(const Options& options) {
  std::erase_if(streams_, [](const auto& stream) { return stream->destroyed; });
  if (!streams_.empty() || events_ != 0 || memory_.live() != 0)
    emulator_error("reset() while streams, events or memory are in use");
  options_ = options;
  favourite_ = 0;
  random_state_ = options.seed;
  random(1);  // seeds that differ little must differ at once
  kernels_run_ = 0;
  kernel_time_ = host_time_ = 0;
  poison_ = last_error_ = failure_ = cudaSuccess;
  failing_call_ = poisoning_call_ = poisoning_kernel_ = 0;
  full_ = refuses_ = false;
}

std::uint64_t Machine::random(std::uint64_t below) {
  // Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (2014), figure 14.
  random_state_ += 0x9E3779B97F4A7C15u;
  std::uint64_t bits = random_state_;
  bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9u;
  bits = (bits ^ bits >> 27) * 0x94D049BB133111EBu;
  return (bits ^ bits >> 31) % below;
}

cudaError_t Machine::begin_call() {
  if (poisoning_call_ != 0 && --poisoning_call_ == 0) poison_ = planted_poison_;
  if (poison_ != cudaSuccess) return poison_;
  return failing_call_ != 0 && --failing_call_ == 0 ? failure_ : cudaSuccess;
}

cudaError_t Machine::end_call(cudaError_t status) {
  // Work that ran within the call may have poisoned the context.
  if (poison_ != cudaSuccess) status = poison_;
  if (status != cudaSuccess) last_error_ = status;  // cudaErrorNotReady too
  return status;
}

cudaError_t Machine::take_last_error() {
  return poison_ != cudaSuccess ? poison_ : std::exchange(last_error_, cudaSuccess);
}

void Machine::plant_failure(std::uint64_t call, cudaError_t error) {
  failing_call_ = call;
  failure_ = error;
}

void Machine::plant_poison_at_call(std::uint64_t call, cudaError_t error) {
  poisoning_call_ = call;
  planted_poison_ = error;
}

void Machine::plant_poison(std::uint64_t kernel, cudaError_t error) {
  poisoning_kernel_ = kernel;
  planted_poison_ = error;
}

cudaStream_t Machine::add_stream() {
  streams_.push_back(std::make_unique<CUstream_st>());
  return streams_.back().get();
}

bool Machine::knows(cudaStream_t stream) const {
  for (const auto& known : streams_)
    if (known.get() == stream) return !known->destroyed;
  return false;
}

bool Machine::remove_stream(cudaStream_t stream) {
  if (!knows(stream)) return false;
  stream->destroyed = true;
  if (stream->queue.empty())
    std::erase_if(streams_, [=](const auto& known) { return known.get() == stream; });
  return true;
}

std::size_t Machine::live_handles() const {
  std::size_t count = events_;
  for (const auto& stream : streams_) count += stream->destroyed ? 0 : 1;
  return count;
}

std::size_t Machine::pending_work() const {
  std::size_t count = 0;
  for (const auto& stream : streams_) count += stream->queue.size();
  return count;
}

// One stream runs for a while, as far as it may, then another: a stream that is late or early by
// many pieces of work shows more than one that takes turns.
bool Machine::run_one() {
  std::vector<std::size_t> ready;
  for (std::size_t i = 0; i < streams_.size(); ++i)
    if (!streams_[i]->queue.empty() && streams_[i]->queue.front().ready()) ready.push_back(i);
  if (ready.empty()) return false;
  if (random(8) == 0) favourite_ = random(streams_.size());
  std::size_t chosen = ready[random(ready.size())];
  for (const std::size_t i : ready)
    if (i == favourite_) chosen = i;
  CUstream_st& stream = *streams_[chosen];
  const CUstream_st::Work work = std::move(stream.queue.front());
  stream.queue.pop_front();
  stream.time = std::max(stream.time, work.issued);
  if (work.is_wait())
    stream.time = std::max(stream.time, work.event->time);
  else
    work.run();
  if (stream.destroyed && stream.queue.empty())
    streams_.erase(streams_.begin() + static_cast<std::ptrdiff_t>(chosen));
  return true;
}

void Machine::run_some() {
  std::uint64_t left = random(3);
  run_until([&] { return left-- == 0 || pending_work() == 0; });
}

void Machine::execute(const Launch& launch) {
  ++kernels_run_;
  if (poisoning_kernel_ != 0 && --poisoning_kernel_ == 0) {
    poison_ = planted_poison_;
    return;
  }
  run_kernel(launch, random(~std::uint64_t{0}));
}

}  // namespace elaswave::emulator
