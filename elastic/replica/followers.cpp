#include "elastic/replica/followers.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "io/base/error.h"

namespace elaswave::replica {
namespace {

bool by_block(const Copy& a, const Copy& b) {
  return std::tie(a.block, a.backup) < std::tie(b.block, b.backup);
}

std::vector<Copy> copies_of(const layout::BlockTable& blocks, const layout::Plan& plan) {
  std::vector<Copy> copies;
  for (std::int64_t block = 0; block < blocks.count(); ++block) {
    const auto first = static_cast<std::ptrdiff_t>(copies.size());
    for (const std::int32_t backup : plan.backups_of(block))
      if (backup >= 0) copies.push_back({block, plan.owner_rank(blocks, block), backup});
    std::sort(copies.begin() + first, copies.end(), by_block);
  }
  return copies;
}

}  // namespace

Followers::Followers(const layout::BlockTable& blocks, const layout::Plan& plan,
                     std::vector<Copy> missing, std::int64_t fill_elems)
    : fill_elems_(fill_elems) {
  const std::vector<Copy> wanted = copies_of(blocks, plan);
  for (const Copy& copy : missing) missing_.push_back({copy, blocks.block(copy.block).elems});
  std::sort(missing.begin(), missing.end(), by_block);
  std::set_difference(wanted.begin(), wanted.end(), missing.begin(), missing.end(),
                      std::back_inserter(following_), by_block);
  EW_CHECK(following_.size() + missing.size() == wanted.size(),
           "of {} copies {} are missing, {} are left", wanted.size(), missing.size(),
           following_.size());
  for (const Copy& copy : missing)
    EW_CHECK(plan.owner_rank(blocks, copy.block) == copy.owner,
             "block {} is to be filled from rank {}, which does not own it", copy.block,
             copy.owner);
  fill_next();
}

void Followers::advance() {
  filling_.clear();
  fill_next();
}

/// Of each owner the next missing copies, in their order, as far as it may send.
void Followers::fill_next() {
  struct Budget {
    std::int64_t elems = 0;
    bool spent = false;  // later ones wait, however small: the order is the caller's
  };
  std::map<std::int32_t, Budget> sent;  // by owner
  std::vector<Missing> left;
  for (const Missing& missing : missing_) {
    Budget& budget = sent[missing.copy.owner];
    budget.spent |=
        fill_elems_ > 0 && budget.elems > 0 && budget.elems + missing.elems > fill_elems_;
    if (budget.spent) {
      left.push_back(missing);
      continue;
    }
    budget.elems += missing.elems;
    filling_.push_back(missing.copy);
  }
  missing_ = std::move(left);
  if (filling_.empty()) return;
  std::sort(filling_.begin(), filling_.end(), by_block);
  const auto old = static_cast<std::ptrdiff_t>(following_.size());
  following_.insert(following_.end(), filling_.begin(), filling_.end());
  std::inplace_merge(following_.begin(), following_.begin() + old, following_.end(), by_block);
}

}  // namespace elaswave::replica
