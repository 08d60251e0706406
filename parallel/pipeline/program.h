// A row made executable: which messages an action needs and makes, when their receives are posted,
// and which slots of memory it uses. Derived from the plan alone, on every rank, so both ends of a
// transfer agree on its order without talking. Pure.
//
// Order of messages: a rank sends in the order of its own row; a peer receives in that same order,
// which it reads off the sender's row. A receive is posted no later than the first action that
// needs it *or a later message of the same pair*, and kPostAhead actions before that. Sends
// complete when the receiver has posted (rendezvous is assumed even where a transport buffers).
// Before an action a rank waits until no more than kSendsInFlight - 1 sends to the peer it will
// send to are incomplete, oldest first.
//
// Order within an instruction: post receives up to post_until (each takes a boundary matrix), wait
// for its own receive and for room among the sends, take the matrices it writes, run, start its
// send, give back what nothing needs any more.
//
// Chunks of one stage are neighbours in the same memory: what one makes for the next is handed over
// as the matrix itself, without a message (local_input, local_output).
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/layout/plan.h"

namespace elaswave::pipeline {

inline constexpr std::int32_t kPostAhead = 2;
inline constexpr std::int32_t kSendsInFlight = 2;

enum class Direction : std::uint8_t { activation, gradient };

/// A message between the replicas of two stages; every slice sends its own to the same slice.
struct Message {
  Direction direction = Direction::activation;
  std::int32_t chunk = 0;  // that receives it
  std::int32_t micro_batch = 0;
  std::int32_t stage = 0, replica = 0;  // of the peer
  bool operator==(const Message&) const = default;
};

struct Instruction {
  layout::Action action;
  std::int32_t post_until = 0;  // receives [0, post_until) are posted before it begins
  std::int32_t receive = -1;    // index in Program::receives that must have arrived
  std::int32_t send = -1;       // index in Program::sends made by it
  /// F: the input (B, I: the gradient) is the matrix that the neighbouring chunk left on this
  /// replica. With neither this nor `receive` the instruction takes a free one: F of the first
  /// chunk for its input, B and I of the last chunk for their gradient.
  bool local_input = false;
  /// F: the output stays here as the input of chunk + 1; B, I: the gradient, as that of chunk - 1.
  /// With neither this nor `send` F has no output (last chunk), and the gradient is free (first).
  bool local_output = false;
  std::int32_t stash = -1, keep = -1, weight_stash = -1;  // as in Task; keep: last chunk only
  bool final = false, final_tied = false;                 // as in Task; not in an evaluation plan
  bool last_use = false;  // of the input by (chunk, micro-batch): its boundary matrix is free after
  bool operator==(const Instruction&) const = default;
};

/// Slots of each kind that one chunk needs: the peak number alive at once.
struct Slots {
  std::int32_t chunk = 0;
  std::int32_t stash = 0, keep = 0, weight_stash = 0;
  bool operator==(const Slots&) const = default;
};

struct Program {
  layout::Place place;  // slice 0
  std::vector<Instruction> instructions;
  std::vector<Message> receives;  // in order of posting
  std::vector<Message> sends;     // in order of the row
  std::vector<Slots> slots;       // of each chunk of the stage, ascending
  /// Boundary matrices alive at once at most: inputs and gradients from their posting (or
  /// hand-over, or first write) to their last use, and what is sent until the send is known to be
  /// complete, that is, the last kSendsInFlight to each peer.
  std::int32_t boundaries = 0;
  bool operator==(const Program&) const = default;
};

/// REQUIRES: the rows are complete (schedule.h, check_rows): every action once, in an order that
/// respects F before R before B or I, I before W, and hand-overs between chunks of one stage, on
/// the replica the route names.
Program lower(const layout::Plan& plan, std::int32_t stage, std::int32_t replica);

/// Messages of a program under way at once at most: receives from their posting to the instruction
/// that needs them, sends until they are known to be complete.
struct UnderWay {
  std::int32_t receives = 0, sends = 0;
};
UnderWay most_under_way(const Program& program);

/// Forward passes alone of micro-batches [0, count), for validation. Each stage runs its chunks in
/// groups of as many micro-batches as there are stages. Ends for every placement in which a chunk
/// follows the one before it to the next stage, round and round or down and up again; for any other
/// ask check_schedule().
/// REQUIRES: count <= plan.micro_batches.
layout::Plan evaluation_plan(const layout::Plan& plan, std::int64_t count);

}  // namespace elaswave::pipeline
