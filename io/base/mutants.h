// The list of mutants (mutant.h).
#pragma once

#include <cstdint>
#include <string_view>

namespace elaswave {

enum class Mutant : std::uint8_t {
  none,
  apply_before_commit,
  commit_without_copies,
  copy_in_owner_domain,
  acknowledge_before_arrival,
  gate_skipped,
  version_without_generation,
  gather_skipped,
  sums_not_cleared,
  micro_batch_twice,
  tied_sums_in_f32,
  slices_in_arrival_order,
  random_by_rank,
  old_generation_accepted,
  accepted_value_ignored,
  view_without_quorum,
  tie_won_twice,
  fenced_rank_writes,
  skipped_step_counts,
  step_written_twice,
  wait_without_deadline,
  count,
};

constexpr std::string_view name(Mutant mutant) {
  constexpr std::string_view names[] = {"none",
                                        "apply_before_commit",
                                        "commit_without_copies",
                                        "copy_in_owner_domain",
                                        "acknowledge_before_arrival",
                                        "gate_skipped",
                                        "version_without_generation",
                                        "gather_skipped",
                                        "sums_not_cleared",
                                        "micro_batch_twice",
                                        "tied_sums_in_f32",
                                        "slices_in_arrival_order",
                                        "random_by_rank",
                                        "old_generation_accepted",
                                        "accepted_value_ignored",
                                        "view_without_quorum",
                                        "tie_won_twice",
                                        "fenced_rank_writes",
                                        "skipped_step_counts",
                                        "step_written_twice",
                                        "wait_without_deadline"};
  static_assert(std::size(names) == static_cast<std::size_t>(Mutant::count));
  return names[static_cast<std::size_t>(mutant)];
}

}  // namespace elaswave
