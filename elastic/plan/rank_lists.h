// World ranks by block, in one array: plans are made while everybody waits, and a vector for each
// block would cost more than the rest. Internal to this folder.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "elastic/plan/backups.h"

namespace elaswave::plan {

class RankLists {
 public:
  /// The list of the next block.
  void add(std::span<const std::int32_t> ranks) {
    ranks_.insert(ranks_.end(), ranks.begin(), ranks.end());
    end_.push_back(ranks_.size());
  }
  /// Nobody for blocks that no list was added for.
  std::span<const std::int32_t> of(std::int64_t block) const {
    const auto index = static_cast<std::size_t>(block);
    if (index >= end_.size()) return {};
    const std::size_t begin = index == 0 ? 0 : end_[index - 1];
    return std::span(ranks_).subspan(begin, end_[index] - begin);
  }

 private:
  std::vector<std::size_t> end_;
  std::vector<std::int32_t> ranks_;
};

/// deal_backups() of backups.h.
std::vector<std::int32_t> deal_backups(const layout::BlockTable& blocks, const layout::Plan& plan,
                                       const Domains& domains, const RankLists& prefers);

}  // namespace elaswave::plan
