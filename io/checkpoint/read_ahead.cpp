#include "io/checkpoint/read_ahead.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace elaswave::checkpoint {

void ReadAhead::Release::operator()(std::byte* memory) const {
  std::free(memory);
}

ReadAhead::ReadAhead(FileSystem& files, std::vector<std::string> paths,
                     std::vector<Stretch> stretches)
    : files_(files),
      paths_(std::move(paths)),
      stretches_(std::move(stretches)),
      slots_(std::min(kSlots, stretches_.size())) {
  // A stretch is widened to whole aligned blocks at both ends.
  constexpr auto kSlotBytes = static_cast<std::size_t>(kMostStretchBytes + 2 * kDirectAlignment);
  for (Slot& slot : slots_) {
    slot.memory.reset(static_cast<std::byte*>(
        std::aligned_alloc(static_cast<std::size_t>(kDirectAlignment), kSlotBytes)));
    if (!slot.memory) throw std::bad_alloc();
  }
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
