#include "parallel/comm/staged_world.h"

#include <algorithm>
#include <utility>

#include "parallel/comm/transfer.h"

namespace elaswave::comm {
namespace {

// Between two looks at the device.
constexpr Nanoseconds kLook = 20'000;

/// copy(whole, begin, piece): `begin` is where the piece stands in the message.
template <typename AnyPieces, typename Copy>
void for_pieces(const AnyPieces& pieces, Copy copy) {
  std::int64_t begin = 0;
  for (const auto& piece : pieces) {
    copy(begin, piece);
    begin += std::ssize(piece);
  }
}

}  // namespace

StagedWorld::~StagedWorld() {
  try {
    stream_.synchronize();  // copies from and to staging memory
  } catch (const device::DeviceLost&) {
    // Told by whoever uses it next.
  }
}

template <typename AnyPieces>
bool StagedWorld::hidden(const AnyPieces& pieces) const {
  return std::any_of(pieces.begin(), pieces.end(), [this](const auto& piece) {
    return !piece.empty() && stream_.device().hides(piece.data());
  });
}

void StagedWorld::expect(std::span<const Expected> messages) {
  EW_CHECK(staged_.empty(), "{} messages are under way", staged_.size());
  stream_.synchronize();
  std::vector<Staging> before = std::exchange(stagings_, {});
  std::vector<Expected> missing;
  for (const Expected& one : messages)
    for (std::int64_t number = 0; number < one.count && one.bytes > 0; ++number) {
      const auto same = std::ranges::find_if(before, [&](const Staging& staging) {
        return staging.channel == one.channel && staging.direction == one.direction &&
               staging.memory.size_bytes() == one.bytes;
      });
      if (same == before.end()) {
        missing.push_back(one);
        continue;
      }
      stagings_.push_back(std::move(*same));
      before.erase(same);
    }
  before.clear();  // both at once might not fit
  for (const Expected& one : missing) add_staging(one.channel, one.direction, one.bytes);
}

void StagedWorld::add_staging(Channel channel, Direction direction, std::int64_t bytes) {
  stagings_.push_back({.channel = channel,
                       .direction = direction,
                       .memory = device::Buffer(stream_.device(), bytes, device::Space::host)});
}

// Of the smallest that are large enough, one that nothing is copied from or to any more. Never a
// larger one instead: a message that was expected must find its own.
std::size_t StagedWorld::take_staging(const Work::State& message) {
  std::size_t best = stagings_.size();
  bool free = false;
  for (std::size_t index = 0; index < stagings_.size(); ++index) {
    const Staging& staging = stagings_[index];
    const std::int64_t size = staging.memory.size_bytes();
    if (staging.taken || staging.channel != message.channel ||
        staging.direction != message.direction || size < message.bytes)
      continue;
    const bool first = best == stagings_.size() || size < stagings_[best].memory.size_bytes();
    if (!first && (free || size > stagings_[best].memory.size_bytes())) continue;
    best = index;
    free = stream_.reached(staging.free_at);
  }
  if (best == stagings_.size()) add_staging(message.channel, message.direction, message.bytes);
  // The device's work ends by itself (above).
  while (!stream_.reached(stagings_[best].free_at)) inner_.clock().sleep(kLook);
  stagings_[best].taken = true;
  return best;
}

std::span<std::byte> StagedWorld::bytes_of(const Staged& staged) {
  return {stagings_[staged.staging].memory.data(), static_cast<std::size_t>(staged.outer->bytes)};
}

StagedWorld::Staged* StagedWorld::find(const Work& work) {
  const auto found = std::find_if(staged_.begin(), staged_.end(), [&](const Staged& staged) {
    return staged.outer == work.state();
  });
  return found == staged_.end() ? nullptr : &*found;
}

Work StagedWorld::send(int to, Channel channel, ConstPieces pieces) {
  submit();
  // Behind one that waits for the device, of the same sequence, a message of the host waits too.
  const bool behind = std::any_of(staged_.begin(), staged_.end(), [&](const Staged& staged) {
    return !staged.submitted && staged.outer->peer == to && staged.outer->channel == channel;
  });
  if (!behind && !hidden(pieces)) return inner_.send(to, channel, std::move(pieces));
  Staged staged{.outer = make_send(to, channel, generation(), std::move(pieces))};
  staged.staging = take_staging(*staged.outer);
  const std::span<std::byte> staging = bytes_of(staged);
  for_pieces(staged.outer->sources, [&](std::int64_t begin, std::span<const std::byte> piece) {
    stream_.copy(staging.data() + begin, piece.data(), std::ssize(piece));
  });
  staged.copied = stream_.mark();
  Work work(staged.outer);
  staged_.push_back(std::move(staged));
  submit();
  return work;
}

Work StagedWorld::receive(int from, Channel channel, Pieces pieces) {
  submit();
  if (!hidden(pieces)) return inner_.receive(from, channel, std::move(pieces));
  Staged staged{.outer = make_receive(from, channel, generation(), std::move(pieces)),
                .submitted = true};
  staged.staging = take_staging(*staged.outer);
  staged.inner = inner_.receive(from, channel, {bytes_of(staged)});
  Work work(staged.outer);
  staged_.push_back(std::move(staged));
  return work;
}

void StagedWorld::submit() {
  for (Staged& staged : staged_) {
    if (staged.submitted) continue;
    if (!stream_.reached(staged.copied)) return;  // nor any later one
    staged.inner = inner_.send(staged.outer->peer, staged.outer->channel, {bytes_of(staged)});
    staged.submitted = true;
  }
}

Result<void> StagedWorld::submit_all(std::string_view operation, Deadline deadline) {
  for (;;) {
    submit();
    if (std::ranges::all_of(staged_, &Staged::submitted)) return {};
    // Throws when there is a newer view, and tells an error that ended everything.
    EW_TRY(inner_.wait(Work(), operation, deadline));
    if (deadline.passed(inner_.clock()))
      return fail({.code = Code::deadline,
                   .what = "the device did not come to the end of its work in time",
                   .where = fmt::format("rank {}, {}", world_rank(), operation),
                   .why = "a message waits for what was issued before it",
                   .fix = "look for errors of the device in the system's log"});
    inner_.clock().sleep(kLook);
  }
}

void StagedWorld::finish(Staged& staged) {
  if (staged.outer->direction == Direction::receive)
    for_pieces(staged.outer->targets, [&](std::int64_t begin, std::span<std::byte> piece) {
      stream_.copy(piece.data(), bytes_of(staged).data() + begin, std::ssize(piece));
    });
  Staging& staging = stagings_[staged.staging];
  staging.taken = false;
  staging.free_at = stream_.mark();
  elaswave::comm::settle(*staged.outer, Phase::done);
  staged_.remove_if([&](const Staged& other) { return &other == &staged; });
}

Result<void> StagedWorld::wait_inside(const Work& work, std::string_view operation,
                                      Deadline deadline) {
  // A wait may last: what peers wait for must be on its way before.
  EW_TRY(submit_all(operation, deadline));
  Staged* staged = find(work);
  if (staged == nullptr) return inner_.wait(work, operation, deadline);
  EW_TRY(inner_.wait(staged->inner, operation, deadline));
  finish(*staged);
  return {};
}

Result<void> StagedWorld::wait(const Work& work, std::string_view operation, Deadline deadline) {
  try {
    Result<void> done = wait_inside(work, operation, deadline);
    if (!done) give_up();
    return done;
  } catch (const StepAborted&) {
    give_up();
    throw;
  }
}

bool StagedWorld::test(const Work& work) {
  submit();
  Staged* staged = find(work);
  if (staged == nullptr) return inner_.test(work);
  if (!staged->submitted || !inner_.test(staged->inner)) return false;
  // Done or given up: wait() tells which. Few look again at a send that is done.
  if (staged->outer->direction == Direction::send) finish(*staged);
  return true;
}

/// The inner world touches no memory any more; copies on the stream still do.
void StagedWorld::give_up() {
  const device::Mark now = stream_.mark();
  for (Staged& staged : staged_) {
    stagings_[staged.staging].taken = false;
    stagings_[staged.staging].free_at = now;
    elaswave::comm::settle(*staged.outer, Phase::abandoned);
  }
  staged_.clear();
}

void StagedWorld::adopt_view(Generation generation, std::span<const int> live) {
  give_up();
  inner_.adopt_view(generation, live);
}

Result<void> StagedWorld::close(Deadline deadline) {
  EW_TRY(submit_all("close", deadline));
  return inner_.close(deadline);
}

std::int64_t StagedWorld::staging_bytes() const {
  std::int64_t bytes = 0;
  for (const Staging& staging : stagings_) bytes += staging.memory.size_bytes();
  return bytes;
}

}  // namespace elaswave::comm
