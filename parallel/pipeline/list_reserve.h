// What the list scheduler must keep free so that everything in flight can always finish: stashes
// under the cap of a row, sends under kSendsInFlight of a link. Banker's rule with one order, the
// age: whatever the younger micro-batches hold, the oldest one that still needs a row or a link
// finds enough left to finish. By induction over ages nothing waits forever. Internal to
// list_schedule.cpp. Pure.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "parallel/pipeline/list_flow.h"

namespace elaswave::pipeline {

/// How far each micro-batch is.
struct Progress {
  static constexpr std::int32_t kNotStarted = std::numeric_limits<std::int32_t>::max();

  std::vector<std::int32_t> position;  // the first one not begun
  std::vector<std::int32_t> age;       // order of the first action of all; kNotStarted before
};

/// The micro-batches in flight that still need something, oldest first. Those that are done are
/// dropped when somebody looks: every entry is passed once.
class Claims {
 public:
  /// `last`: the position after which the micro-batch needs it no more. In the order of ages.
  void add(std::int32_t micro_batch, std::int32_t last) { claims_.push_back({micro_batch, last}); }

  /// -1 when nobody needs it.
  std::int32_t oldest() const { return head_ == claims_.size() ? -1 : claims_[head_].micro_batch; }
  /// Drops the oldest claim if it is settled.
  bool drop_settled(const Progress& progress) {
    if (head_ == claims_.size()) return false;
    const Claim& claim = claims_[head_];
    if (progress.position[index_of(claim.micro_batch)] <= claim.last) return false;
    ++head_;
    return true;
  }

 private:
  struct Claim {
    std::int32_t micro_batch = 0, last = 0;
  };
  std::vector<Claim> claims_;
  std::size_t head_ = 0;
};

/// Live stashes of one row: from F to B or W, at most `cap`. With v chunks on the row, those
/// younger than the oldest that has a forward left here hold at most cap - v.
class StashReserve {
 public:
  StashReserve(std::int32_t cap, std::int32_t chunks) : cap_(cap), chunks_(chunks) {}

  void claim(std::int32_t micro_batch, std::int32_t last_forward) {
    claims_.add(micro_batch, last_forward);
  }
  /// Whether the row may run a forward of this micro-batch now.
  bool has_room(const Progress& progress, std::int32_t micro_batch) const;
  /// A forward begins, and the micro-batch's position has moved on. `held(micro_batch)` says how
  /// many stashes a micro-batch has on this row, this one included.
  template <typename Held>
  void take(const Progress& progress, std::int32_t micro_batch, const Held& held) {
    ++live_;
    if (!is_younger(progress, micro_batch)) ++settled_;
    while (claims_.drop_settled(progress))
      settled_ = claims_.oldest() < 0 ? live_ : settled_ + held(claims_.oldest());
  }
  void release(const Progress& progress, std::int32_t micro_batch) {
    --live_;
    if (!is_younger(progress, micro_batch)) --settled_;
  }

 private:
  /// Than the oldest that has a forward left here.
  bool is_younger(const Progress& progress, std::int32_t micro_batch) const {
    const std::int32_t oldest = claims_.oldest();
    return oldest >= 0 && progress.age[index_of(micro_batch)] > progress.age[index_of(oldest)];
  }

  std::int32_t cap_, chunks_;
  std::int32_t live_ = 0;
  std::int32_t settled_ = 0;  // of those, not held by younger ones
  Claims claims_;
};

/// Messages of one link that the receiver has not taken. A message counts as taken when the action
/// that needs it, or a later message of the link, begins; lowered programs post earlier than that,
/// so they can do all that happens here. At most kSendsInFlight, and one less for a micro-batch
/// while an older one still has to use the link.
class LinkReserve {
 public:
  void claim(std::int32_t micro_batch, std::int32_t last) { claims_.add(micro_batch, last); }
  /// Whether the sender may begin an action that sends for this micro-batch.
  bool has_room(std::int32_t micro_batch) const;
  /// Returns the number of the message. After the micro-batch's position moved on.
  std::int32_t send(const Progress& progress);
  void take(std::int32_t message);

 private:
  std::int32_t sent_ = 0, taken_ = 0;
  Claims claims_;
};

}  // namespace elaswave::pipeline
