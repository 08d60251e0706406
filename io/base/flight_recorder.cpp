#include "io/base/flight_recorder.h"

#include <algorithm>
#include <array>

#include "io/base/error.h"

namespace elaswave {
namespace {

constexpr std::size_t kWords = 7;
constexpr std::size_t kBeginWord = 0, kEndWord = 1;
using Words = std::array<std::uint64_t, kWords>;

std::uint64_t two(std::int32_t low, std::int32_t high) {
  return static_cast<std::uint32_t>(low) |
         static_cast<std::uint64_t>(static_cast<std::uint32_t>(high)) << 32;
}
std::int32_t low(std::uint64_t word) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(word));
}
std::int32_t high(std::uint64_t word) {
  return low(word >> 32);
}

Words pack(const FlightEvent& event) {
  const auto kinds = static_cast<std::int32_t>(event.kind) | std::int32_t{event.detail} << 8;
  return {static_cast<std::uint64_t>(event.begin),
          static_cast<std::uint64_t>(event.end),
          static_cast<std::uint64_t>(raw(event.step)),
          two(kinds, event.chunk),
          two(event.micro_batch, event.peer),
          static_cast<std::uint64_t>(event.bytes),
          event.message};
}

FlightEvent unpack(const Words& words) {
  FlightEvent event;
  event.begin = static_cast<Nanoseconds>(words[0]);
  event.end = static_cast<Nanoseconds>(words[kEndWord]);
  event.step = Step{static_cast<std::int64_t>(words[2])};
  event.kind = static_cast<FlightKind>(low(words[3]) & 0xFF);
  event.detail = static_cast<std::uint8_t>(low(words[3]) >> 8);
  event.chunk = high(words[3]);
  event.micro_batch = low(words[4]);
  event.peer = high(words[4]);
  event.bytes = static_cast<std::int64_t>(words[5]);
  event.message = words[6];
  return event;
}

}  // namespace

// A seqlock without fences (ThreadSanitizer does not know them). `sequence` is 4n + 1 while event n
// is written and 4n + 2 when it stands, 4n + 3 while it is corrected and 4n + 4 after that: an
// event as it was is not taken for what it has become. Every word is stored with release order
// after the odd number and loaded with acquire order before `sequence` is looked at again: a reader
// that has seen one word of a later event then also sees that event's number, and drops what it
// read.
constexpr std::uint64_t kWriting = 1, kStands = 2, kCorrecting = 3, kCorrected = 4;
constexpr std::uint64_t at(std::uint64_t number, std::uint64_t state) {
  return 4 * number + state;
}

struct FlightLane::Slot {
  std::atomic<std::uint64_t> sequence{0};
  std::array<std::atomic<std::uint64_t>, kWords> words{};
};

FlightLane::FlightLane(std::size_t capacity)
    : capacity_(capacity), slots_(std::make_unique<Slot[]>(capacity)) {
  EW_CHECK(capacity >= 1, "a flight recorder for no events");
}

FlightLane::~FlightLane() = default;

std::uint64_t FlightLane::start(const FlightEvent& event) {
  const std::uint64_t number = next_.load(std::memory_order_relaxed);
  Slot& slot = slots_[number % capacity_];
  slot.sequence.store(at(number, kWriting), std::memory_order_relaxed);
  const Words words = pack(event);
  for (std::size_t i = 0; i < kWords; ++i) slot.words[i].store(words[i], std::memory_order_release);
  slot.sequence.store(at(number, kStands), std::memory_order_release);
  next_.store(number + 1, std::memory_order_release);
  return number;
}

void FlightLane::finish(std::uint64_t handle, Nanoseconds end) {
  Slot& slot = slots_[handle % capacity_];
  if (slot.sequence.load(std::memory_order_relaxed) != at(handle, kStands)) return;
  // One word, and the event is whole with it or without it: the sequence need not move.
  slot.words[kEndWord].store(static_cast<std::uint64_t>(end), std::memory_order_release);
}

void FlightLane::correct(std::uint64_t handle, Nanoseconds begin, Nanoseconds end) {
  Slot& slot = slots_[handle % capacity_];
  if (slot.sequence.load(std::memory_order_relaxed) != at(handle, kStands)) return;
  slot.sequence.store(at(handle, kCorrecting), std::memory_order_relaxed);
  slot.words[kBeginWord].store(static_cast<std::uint64_t>(begin), std::memory_order_release);
  slot.words[kEndWord].store(static_cast<std::uint64_t>(end), std::memory_order_release);
  slot.sequence.store(at(handle, kCorrected), std::memory_order_release);
}

std::vector<FlightEvent> FlightLane::snapshot() const {
  const std::uint64_t end = count();
  std::vector<FlightEvent> events;
  events.reserve(static_cast<std::size_t>(std::min<std::uint64_t>(end, capacity_)));
  for (std::uint64_t number = end > capacity_ ? end - capacity_ : 0; number < end; ++number)
    if (const auto event = read(number)) events.push_back(*event);
  return events;
}

std::optional<FlightEvent> FlightLane::newest() const {
  // Overwritten while it was read: then there is a newer one.
  for (;;) {
    const std::uint64_t end = count();
    if (end == 0) return std::nullopt;
    if (const auto event = read(end - 1)) return event;
  }
}

/// Nothing when the event is overwritten, or is being written to.
std::optional<FlightEvent> FlightLane::read(std::uint64_t number) const {
  const Slot& slot = slots_[number % capacity_];
  const std::uint64_t sequence = slot.sequence.load(std::memory_order_acquire);
  if (sequence != at(number, kStands) && sequence != at(number, kCorrected)) return std::nullopt;
  Words words;
  for (std::size_t i = 0; i < kWords; ++i) words[i] = slot.words[i].load(std::memory_order_acquire);
  if (slot.sequence.load(std::memory_order_relaxed) != sequence) return std::nullopt;
  return unpack(words);
}

}  // namespace elaswave
