// What is concluded when a wait has failed: from who waits for whom to the ranks that hold
// everybody up. Pure. Internal to parallel/comm.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/base/clock.h"
#include "io/base/types.h"
#include "parallel/comm/transfer.h"

namespace elaswave::comm {

enum class NoteState : std::uint8_t { waiting, resumed };

/// What a rank tells the others once a wait takes long, and again when that wait is over. Sent as
/// it lies in memory (little endian, the only byte order built for).
struct WaitNote {
  std::uint32_t magic = kMagic;
  std::int32_t from = 0;  // world ranks
  std::int32_t peer = 0;  // whom it waits for
  Channel channel = Channel::control;
  Direction direction = Direction::receive;
  NoteState state = NoteState::waiting;
  std::uint8_t zero = 0;
  std::int64_t step = 0;
  Nanoseconds waited = 0;           // when the note was sent
  std::array<char, 32> activity{};  // both texts end with a zero
  std::array<char, 48> operation{};

  static constexpr std::uint32_t kMagic = 0x314E5745;  // "EWN1"
};
static_assert(sizeof(WaitNote) == 112);

/// A note from the bytes of a message of `from`; nothing when they are none.
std::optional<WaitNote> parse_note(std::span<const std::byte> bytes, int from, int size);

/// Who of the `live` ranks (ascending) hears the notes of `world_rank`, one of them: all others up
/// to 96, beyond that those at distances 1, 2, 4, ... upwards among the live, so that notes cost
/// little at any size.
std::vector<int> ranks_told_by(int world_rank, std::span<const int> live);
/// Whose notes `world_rank` hears: the other end of ranks_told_by().
std::vector<int> ranks_heard_by(int world_rank, std::span<const int> live);

/// The newest message that came from a rank.
struct LastSeen {
  int world_rank = 0;
  Channel channel = Channel::control;
  Step step{};
  Nanoseconds ago = 0;
};

/// A note and how long ago it was found here, at most as long as it has been true: a rank looks for
/// notes only while it waits long itself.
struct HeardNote {
  WaitNote note;
  Nanoseconds ago = 0;
};

/// What one rank knows when its wait has failed.
struct HangView {
  std::vector<int> live;  // ascending
  WaitNote own;
  std::vector<HeardNote> others;  // the newest of each rank, by rank
  std::vector<LastSeen> seen;     // by rank
};

struct HangReport {
  std::string text;           // one line: the ranks to look at, then who waits for whom
  std::vector<int> suspects;  // the ranks to look at: by rank, the one this rank hangs on first
  std::string fix;            // what the reader can do, with as many suspects as fit a line
};

/// A rank that others wait for and that waits for nobody, as far as is known, is a suspect; when
/// there is none, ranks wait for one another in a circle. Notes of a step before the last are out
/// of date: no rank can be two steps behind another.
HangReport report_hang(const HangView& view);

}  // namespace elaswave::comm
