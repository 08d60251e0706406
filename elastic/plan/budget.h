// What memory every rank may use, and whether a plan keeps to it. Pure: ranks that know the same
// limits and the same members judge alike. Bytes are doubles, as in spec::MemoryTable; they are
// whole numbers below 2^53 and so exact.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "model/spec/memory.h"
#include "parallel/layout/plan.h"

namespace elaswave::plan {

/// What is known of one rank.
struct RankLimit {
  std::int32_t host = 0;        // number; ranks of the same host share its memory
  std::int64_t host_bytes = 0;  // what the host has for all of them; 0: not known
  std::int64_t own_bytes = 0;   // set by hand, in place of a share; 0: nothing is set
  // The same of its device, where that has memory of its own.
  std::int32_t gpu = 0;  // number; no two hosts have the same
  std::int64_t gpu_bytes = 0, own_gpu_bytes = 0;
  bool operator==(const RankLimit&) const = default;
};
/// By world rank, members or not; empty: nobody has a limit.
using RankLimits = std::vector<RankLimit>;

/// Bytes that each member may use, by world rank up to the last one: what is set by hand, else an
/// equal share of its host among the members there, so that whoever goes leaves its memory to its
/// neighbours. Infinity where nothing is known, and for ranks that are no members. REQUIRES:
/// `members` ascending, and below limits.size() unless that is 0.
using Budgets = std::vector<double>;
Budgets budgets(const RankLimits& limits, std::span<const std::int32_t> members);
/// The same of devices: of a GPU that nobody set a limit for, all but a part for what no plan
/// counts (kUncountedShare).
Budgets gpu_budgets(const RankLimits& limits, std::span<const std::int32_t> members);
/// Contexts of processes, code of kernels and libraries. An order of magnitude, not measured.
inline constexpr double kUncountedShare = 0.03;

/// A rank that is asked for more than it may use.
struct Shortage {
  std::int32_t world_rank = 0;
  spec::MemoryTable use;
  double budget = 0;                  // bytes
  spec::Side side = spec::Side::all;  // of what

  double need() const { return use.total(side); }
  double beyond() const { return need() - budget; }
};

/// The rank that is furthest beyond its budget; nothing when all of a plan's ranks, spares among
/// them, keep to theirs. `on_gpus`: of the device's side, where the model has one; empty: no
/// limits. REQUIRES: rows, owners and backups are set; as predict_memory(); budgets of all members.
std::optional<Shortage> find_shortage(const spec::MemoryModel& model, const layout::Plan& plan,
                                      const Budgets& budgets, const Budgets& on_gpus = {});

}  // namespace elaswave::plan
