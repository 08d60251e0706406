// The commit point C(v): what all ranks find out together before anybody changes.
#include <algorithm>

#include "app/phase.h"
#include "app/trainer.h"
#include "io/base/log.h"
#include "io/base/mutant.h"

namespace elaswave::app {
namespace {

/// The first names of a list that can have hundreds: a spike in one tensor soon reaches all.
std::string first_names(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 3;
  if (names.empty()) return "none on this rank";
  std::string text;
  for (std::size_t i = 0; i < std::min(kShown, names.size()); ++i)
    text += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > kShown) text += fmt::format(" and {} more", names.size() - kShown);
  return text;
}

}  // namespace

/// Every copy was compared with its owner in the `scrub_steps` steps before, and was equal.
Step Trainer::newest_trusted(Step step) const {
  return Step{std::max<std::int64_t>(0, raw(step) - 1 - spec_.elastic.scrub_steps)};
}

Result<void> Trainer::commit(Step step, const optim::CommitVote& vote) {
  const Phase phase(parts_.world, step, FlightPhase::commit, "commit");
  parts_.world.probe(Point::before_commit);
  std::vector<std::int64_t> words = vote.words();
  const std::size_t votes = words.size();
  words.resize(votes + static_cast<std::size_t>(group_.size()), 0);
  words[votes + static_cast<std::size_t>(group_.index_of(parts_.world.world_rank()))] =
      engine_->cost_ns();
  EW_TRY(comm::all_reduce_sum(parts_.world, group_, words, "commit point", deadline()));
  const optim::CommitVote total = optim::CommitVote::from_words(std::span(words).first(votes));
  const Generation generation =
      mutant(Mutant::version_without_generation) ? Generation{} : engine_->plan().generation;
  const optim::CommitRecord record =
      optim::decide(total, {step, generation}, updates_, batches_.sample_hash(step), spec_.adamw);
  if (auto checked = check_commit(record, total); !checked) {
    // All ranks stop here, in good order: the checkpoint under way is worth having.
    if (checkpointer_ && checkpointer_->advance(total)) (void)checkpointer_->finish(std::nullopt);
    if (checked.error().code == Code::corrupt && checkpointer_) {
      distrusted_ = checked.error();
      return checked;
    }
    return verdict(std::move(checked).error());
  }
  if (mutant(Mutant::apply_before_commit))
    EW_TRY((engine_->apply(record),
            comm::all_reduce_sum(parts_.world, group_, words, "commit", deadline())));
  // From here on the step is decided, whatever happens to others: no wait comes before this line.
  record_ = record;
  stop_agreed_ = total.stop_requests > 0;
  speeds_.add(group_.world_ranks, std::span(words).subspan(votes));
  parts_.world.probe(Point::after_commit);
  if (checkpointer_) EW_TRY(checkpointer_->advance(total));
  return {};
}

Result<void> Trainer::check_commit(const optim::CommitRecord& record,
                                   const optim::CommitVote& total) {
  const std::int64_t step = raw(record.version.step);
  if (total.data_failures > 0) return data_failure(total);
  EW_CHECK(total.micro_batches == spec_.micro_batches, "{} micro-batches computed, {} in a step",
           total.micro_batches, spec_.micro_batches);
  EW_CHECK(total.blocks_logged == blocks_.count(), "{} blocks logged, the model has {}",
           total.blocks_logged, blocks_.count());
  EW_CHECK(
      mutant(Mutant::commit_without_copies) || total.copies_logged == engine_->copies_expected(),
      "{} copies logged, {} follow", total.copies_logged, engine_->copies_expected());
  if (total.copy_digest != 0)
    return fail({.code = Code::corrupt,
                 .what = "a copy of the state is not what its owner has",
                 .where = fmt::format("before step {}", step),
                 .why = "master weights or moments of a block have changed in some rank's memory",
                 .fix = fmt::format("start again from a checkpoint of before step {}; suspect the "
                                    "memory of a host",
                                    raw(newest_trusted(record.version.step)) + 1)});
  if (!record.skip) return {};

  const std::string tensors = first_names(engine_->bad_tensors());
  if (spec_.non_finite == NonFinite::skip) {
    log_warn("step {} skipped: non-finite loss or gradient on {} of {} ranks (tensors: {})", step,
             total.bad_ranks, group_.size(), tensors);
    return {};
  }
  return fail({.code = Code::non_finite,
               .what = "the loss or a gradient is not finite, or out of range",
               .where = fmt::format("step {}, samples {:016x}, tensors: {}", step,
                                    record.sample_hash, tensors),
               .why = fmt::format("{} of {} ranks saw it; nothing of this step was applied",
                                  total.bad_ranks, group_.size()),
               .fix = "lower train.lr, or set train.non_finite=skip to leave such steps out"});
}

}  // namespace elaswave::app
