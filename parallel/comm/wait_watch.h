// What a rank does about its own long waits: enters them in the flight recorder, tells the other
// ranks, reads what they tell, and draws the conclusion when a deadline has passed. Every world's
// wait() goes through it. Internal to parallel/comm. THREADS: the world's caller.
//
// A wait that is over soon costs the recorder's event and nothing else. After a quarter of the time
// between its start and its deadline the rank sends one note to the others (Channel::watch) and
// posts a receive for theirs; from then on it looks for notes 24 more times until the deadline. A
// quarter: ranks that began to wait up to three quarters of that time later are still heard. When
// the wait ends well after all, a second note says so. Notes nobody reads are bounded by the
// channel's credits, an even number: a pair of notes to a peer begins only when the pair before has
// left, else it is owed and begun by a later look. So what a peer finds of a rank that died or
// stopped is never a wait that was over.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/comm/hang_report.h"
#include "parallel/comm/transfer.h"
#include "parallel/comm/world.h"

namespace elaswave::comm {

class WaitWatch {
 public:
  explicit WaitWatch(World& world) : world_(world) {}
  ~WaitWatch() = default;
  WaitWatch(const WaitWatch&) = delete;
  WaitWatch& operator=(const WaitWatch&) = delete;

  void set_activity(const Activity& activity) { activity_ = activity; }
  Step step() const { return activity_.step; }
  /// ", step 13, 2F13", or nothing when the rank has said nothing: the end of an error's `where`.
  std::string place() const;

  /// One call of wait(); leaves the watch in order however the call ends. Sends nothing itself.
  class Scope {
   public:
    explicit Scope(WaitWatch& watch) : watch_(watch) {}
    ~Scope() { watch_.leave(); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    WaitWatch& watch_;
  };

  /// The rank is about to block; further calls of one wait do nothing.
  void begin(const Transfer& transfer, std::string_view operation, Deadline deadline);
  /// When to look at due() next; not after the deadline. REQUIRES: begun.
  Nanoseconds wake_at() const { return due_; }
  bool due() const { return transfer_ != nullptr && world_.clock().now() >= due_; }
  /// Tells and reads notes. Never blocks, but the transport may move meanwhile: look at the
  /// transfer again before blocking.
  void attend();
  /// The transfer is done.
  void resumed();
  /// The error of a wait whose deadline has passed, with all that is known here.
  Error deadline_error(const Transfer& transfer, std::string_view operation, Nanoseconds waited);
  /// A new generation: what was told and heard is no longer true, its transfers were given up.
  void reset();

 private:
  struct Told {
    int world_rank = 0;
    bool waiting_told = false;  // and not yet that the wait is over
    WaitNote waiting, resumed;
    Work waiting_work, resumed_work;
  };
  struct Heard {
    int world_rank = 0;
    WaitNote incoming;
    std::optional<WaitNote> newest;
    Nanoseconds found_at = 0;  // `newest`
    Work work;
  };

  void leave();
  void tell_waiting();
  void tell_resumed();
  Work send_note(int to, const WaitNote& note);
  void collect();
  WaitNote note(NoteState state) const;
  std::vector<LastSeen> last_seen() const;

  World& world_;
  Activity activity_;
  // The wait under way; no transfer: none.
  const Transfer* transfer_ = nullptr;
  std::string_view operation_;
  Deadline deadline_;
  Nanoseconds begin_ = 0;
  Nanoseconds due_ = 0;
  Nanoseconds interval_ = 0;
  std::uint64_t flight_ = 0;
  bool told_ = false;  // somebody, or tried to
  // Made with the first long wait of a generation. Never grown: transfers point into them.
  std::vector<Told> told_to_;
  std::vector<Heard> heard_from_;
};

}  // namespace elaswave::comm
