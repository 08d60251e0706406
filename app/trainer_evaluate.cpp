// What can be asked of the model between steps: its digest, its loss on held-out data, and how well
// the first step used the ranks.
#include <algorithm>
#include <limits>

#include "app/phase.h"
#include "app/state_dump.h"
#include "app/trainer.h"
#include "model/optim/digest.h"

namespace elaswave::app {

Result<void> Trainer::measure_bubble(const pipeline::RunTime& time) {
  const std::int64_t mine[] = {time.actions, time.span};
  std::vector<std::int64_t> all(2 * static_cast<std::size_t>(group_.size()));
  EW_TRY(comm::all_gather(parts_.world, group_, std::as_bytes(std::span(mine)),
                          std::as_writable_bytes(std::span(all)), "bubble", deadline()));
  std::int64_t actions = 0, longest = 0;
  for (std::size_t rank = 0; rank < all.size(); rank += 2) {
    actions += all[rank];
    longest = std::max(longest, all[rank + 1]);
  }
  if (longest > 0)
    bubble_ = 1 - static_cast<double>(actions) / (static_cast<double>(longest) * group_.size());
  return {};
}

void Trainer::add(const Tally& tally, optim::CommitVote& vote) {
  vote.loss.add(tally.loss);
  vote.tokens += tally.tokens;
  vote.micro_batches += tally.micro_batches;
  if (tally.bad) vote.bad_ranks = 1;
  if (tally.data_error) data_error_ = tally.data_error;
  vote.data_failures = data_error_ ? 1 : 0;
}

tl::unexpected<Error> Trainer::data_failure(const optim::CommitVote& total) const {
  if (data_error_) return fail(*data_error_);
  return fail({.code = Code::data,
               .what = "another rank could not read its samples",
               .where = fmt::format("after step {}", raw(shard_.version.step)),
               .why = fmt::format("{} of {} ranks reported it", total.data_failures, group_.size()),
               .fix = "see the message of that rank"});
}

Result<std::uint64_t> Trainer::digest() {
  const Phase phase(parts_.world, shard_.version.step, FlightPhase::digest, "digest");
  optim::DigestSums sums = optim::digest_sums(parts_.machine.host_ops, parts_.machine.host_stream,
                                              inventory_, blocks_, shard_);
  EW_TRY(comm::all_reduce_sum(parts_.world, group_, sums, "state digest", deadline()));
  return optim::state_digest(inventory_, sums);
}

Result<std::optional<double>> Trainer::validate() {
  const std::int64_t available = val_batches_->in_order_count();
  const std::int64_t count =
      spec_.val_batches == 0 ? available : std::min(spec_.val_batches, available);
  const Phase phase(parts_.world, shard_.version.step, FlightPhase::validation, "validation");
  optim::CommitVote sum;
  for (std::int64_t first = 0; first < count && !stop_agreed_; first += spec_.micro_batches) {
    EW_ASSIGN(const optim::CommitVote round,
              validate_round(first, std::min(spec_.micro_batches, count - first)));
    if (round.data_failures > 0) return data_failure(round);
    stop_agreed_ = round.stop_requests > 0;
    sum.loss.add(round.loss);
    sum.tokens += round.tokens;
    sum.micro_batches += round.micro_batches;
    sum.bad_ranks += round.bad_ranks;
  }
  if (sum.micro_batches < count) return std::optional<double>();  // broken off: no loss to tell
  if (sum.bad_ranks > 0) return std::optional(std::numeric_limits<double>::quiet_NaN());
  return std::optional(sum.loss.value() / static_cast<double>(sum.tokens));
}

Result<optim::CommitVote> Trainer::validate_round(std::int64_t first, std::int64_t count) {
  EW_ASSIGN(const Tally tally,
            engine_->evaluate(
                count, [&](std::int64_t index) { return val_batches_->in_order(first + index); },
                [&](std::int64_t index) { return val_batches_->blank(Step{0}, index, 0); }));
  optim::CommitVote vote;
  add(tally, vote);
  vote.stop_requests = asked_to_stop() ? 1 : 0;
  std::vector<std::int64_t> words = vote.words();
  parts_.world.set_activity({shard_.version.step, "validation"});  // no longer the last action
  EW_TRY(comm::all_reduce_sum(parts_.world, group_, words, "validation loss", deadline()));
  return optim::CommitVote::from_words(words);
}

Result<void> Trainer::dump_state(const std::string& path) {
  EW_ASSIGN(const std::uint64_t state_digest, digest());
  return app::dump_state({.world = parts_.world,
                          .group = group_,
                          .plan = engine_->plan(),
                          .inventory = inventory_,
                          .blocks = blocks_,
                          .shard = shard_,
                          .digest = state_digest,
                          .timeout = spec_.timeout},
                         path);
}

}  // namespace elaswave::app
