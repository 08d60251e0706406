#include "io/checkpoint/read_ahead.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace elaswave::checkpoint {

ReadAhead::ReadAhead(FileSystem& files, std::vector<std::string> paths,
                     std::vector<Stretch> stretches)
    : files_(files),
      paths_(std::move(paths)),
      stretches_(std::move(stretches)),
      slots_(std::min(kSlots, stretches_.size())) {
  // A stretch is widened to whole aligned blocks at both ends.
  std::int64_t own_bytes = 0;
  for (const Stretch& stretch : stretches_)
    if (stretch.into == nullptr) own_bytes = std::max(own_bytes, stretch.end - stretch.begin);
  const std::int64_t slot_bytes = round_up(own_bytes, kDirectAlignment) + 2 * kDirectAlignment;
  for (Slot& slot : slots_) slot.memory = allocate(slot_bytes, kDirectAlignment);
  if (!stretches_.empty()) reader_ = std::thread([this] { read_all(); });
}

ReadAhead::~ReadAhead() {
  if (!reader_.joinable()) return;
  {
    const std::scoped_lock lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  reader_.join();
}

void ReadAhead::read_all() {
  for (std::size_t i = 0; i < stretches_.size(); ++i) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || i < taken_ + slots_.size(); });
      if (stop_) return;
    }
    auto result = read(stretches_[i], slot(i).memory.get());
    const bool failed = !result;
    {
      const std::scoped_lock lock(mutex_);
      slot(i).filled = std::move(result);
    }
    changed_.notify_all();
    if (failed) return;
  }
}

Result<std::span<const std::byte>> ReadAhead::read(const Stretch& stretch, std::byte* memory) {
  if (!handle_ || open_file_ != stretch.file) {
    EW_ASSIGN(handle_, files_.open(paths_[stretch.file], Caching::direct));
    open_file_ = stretch.file;
  }
  if (stretch.into == nullptr) return read_own(stretch, memory);
  EW_TRY(read_into(stretch, memory));
  return std::span<const std::byte>(stretch.into,
                                    static_cast<std::size_t>(stretch.end - stretch.begin));
}

/// Whole aligned blocks go straight to their place; partial ones at the ends make a detour.
Result<void> ReadAhead::read_into(const Stretch& stretch, std::byte* memory) {
  const std::int64_t from = std::min(round_up(stretch.begin, kDirectAlignment), stretch.end);
  const std::int64_t to = std::max(stretch.end / kDirectAlignment * kDirectAlignment, from);
  const auto detour = [&](std::int64_t begin, std::int64_t end) -> Result<void> {
    if (begin == end) return {};
    EW_ASSIGN(const auto bytes, read_own({stretch.file, begin, end}, memory));
    std::memcpy(stretch.into + (begin - stretch.begin), bytes.data(), bytes.size());
    return {};
  };
  EW_TRY(detour(stretch.begin, from));
  if (from < to)
    EW_TRY(handle_->read_at(
        from, {stretch.into + (from - stretch.begin), static_cast<std::size_t>(to - from)}));
  return detour(to, stretch.end);
}

Result<std::span<const std::byte>> ReadAhead::read_own(const Stretch& stretch, std::byte* memory) {
  EW_ASSIGN(const std::int64_t file_bytes, handle_->size_bytes());
  const std::int64_t begin = stretch.begin / kDirectAlignment * kDirectAlignment;
  // Past the end there is nothing: a file that is too short fails in read_at.
  const std::int64_t end =
      std::max(stretch.end, std::min(round_up(stretch.end, kDirectAlignment), file_bytes));
  const std::span<std::byte> out(memory, static_cast<std::size_t>(end - begin));
  EW_TRY(handle_->read_at(begin, out));
  return out.subspan(static_cast<std::size_t>(stretch.begin - begin),
                     static_cast<std::size_t>(stretch.end - stretch.begin));
}

Result<std::span<const std::byte>> ReadAhead::next() {
  std::unique_lock lock(mutex_);
  EW_CHECK(given_ < stretches_.size(), "{} stretches, all read", stretches_.size());
  if (given_ > taken_) {
    slot(taken_).filled.reset();
    ++taken_;
    changed_.notify_all();
  }
  changed_.wait(lock, [&] { return slot(given_).filled.has_value(); });
  return *slot(given_++).filled;
}

}  // namespace elaswave::checkpoint
