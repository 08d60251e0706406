// Who holds what, as recovery asks for it. Internal to this folder.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "elastic/plan/rank_lists.h"
#include "elastic/plan/recovery.h"

namespace elaswave::plan {

/// Keeps references to the request. Looking at every member for every block would take longer than
/// all the rest: of a block only its holders in whole replicas of its home stage (under the
/// previous plan, in its slice) are listed if they are as many as the plan wants, owner and copies;
/// of all others every holder.
class Holders {
 public:
  Holders(const layout::BlockTable& blocks, const RecoveryRequest& request);

  /// Members, ascending.
  const std::vector<std::int32_t>& members() const { return members_; }
  bool is_member(std::int32_t rank) const { return index_of(rank) >= 0; }
  bool holds(std::int32_t rank, std::int64_t block) const {
    const std::int32_t index = index_of(rank);
    return index >= 0 &&
           holdings_.holds[static_cast<std::size_t>(index)][static_cast<std::size_t>(block)];
  }
  std::span<const std::int32_t> of(std::int64_t block) const { return lists_.of(block); }
  const RankLists& lists() const { return lists_; }
  /// World rank of the owner under the previous plan, by block; empty when that has no owners.
  const std::vector<std::int32_t>& previous_owners() const { return previous_owners_; }

  /// Code::unrecoverable when there are blocks that nobody holds.
  Result<void> check_lost(const layout::BlockTable& blocks) const;

 private:
  std::int32_t index_of(std::int32_t rank) const {
    const auto at = static_cast<std::size_t>(rank);
    return rank >= 0 && at < index_.size() ? index_[at] : -1;
  }
  void index_members(const layout::BlockTable& blocks);
  void list_holders(const layout::BlockTable& blocks, const RecoveryRequest& request);

  const Holdings& holdings_;
  std::vector<std::int32_t> members_;
  std::vector<std::int32_t> index_;  // by world rank: in the holdings, or -1
  std::vector<std::int32_t> previous_owners_;
  RankLists lists_;
};

/// "1 rank is left", "3 ranks are left".
std::string left_text(std::int64_t ranks);

}  // namespace elaswave::plan
