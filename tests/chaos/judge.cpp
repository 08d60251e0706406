#include "tests/chaos/judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "io/base/log.h"
#include "tests/support/fake_file_system.h"

namespace elaswave::test {
namespace {

std::uint64_t bits(double value) {
  return std::bit_cast<std::uint64_t>(value);
}

plan::Domains domains_of(const Case& what) {
  plan::Domains domains;
  if (what.per_domain > 1)
    for (int rank = 0; rank < what.ranks; ++rank) domains.push_back(rank / what.per_domain);
  return domains;
}

ElasticOptions options_of(const Case& what, FileSystem* files) {
  return {.ranks = what.ranks,
          .seed = what.seed,
          .faults = what.faults,
          .domains = domains_of(what),
          .claims = what.claims,
          .fill_elems = what.fill_elems,
          .copies = static_cast<std::int32_t>(what.copies),
          .latency_max = what.latency_max,
          .files = files};
}

/// What is wrong with a step as it was told; empty: nothing.
std::string difference(const app::StepReport& mine, const app::StepReport& reference,
                       bool digest_due) {
  const auto step = raw(reference.record.version.step);
  if (mine.record.version.step != reference.record.version.step)
    return fmt::format("step {} stands in place of step {}", raw(mine.record.version.step), step);
  const auto differs = [&](std::string_view what) {
    return fmt::format("step {} has another {} than undisturbed", step, what);
  };
  if (digest_due && !mine.digest) return fmt::format("step {} has no digest", step);
  if (mine.digest && mine.digest != reference.digest) return differs("digest");
  if (bits(mine.record.loss) != bits(reference.record.loss)) return differs("loss");
  if (bits(mine.record.grad_norm) != bits(reference.record.grad_norm)) return differs("norm");
  if (mine.record.sample_hash != reference.record.sample_hash) return differs("sample hash");
  if (mine.record.skip != reference.record.skip) return differs("way (skipped or not)");
  if (mine.record.updates != reference.record.updates) return differs("number of updates");
  if (mine.tokens != reference.tokens) return differs("number of tokens");
  if (mine.val_loss.has_value() != reference.val_loss.has_value() ||
      bits(mine.val_loss.value_or(0)) != bits(reference.val_loss.value_or(0)))
    return differs("validation loss");
  return {};
}

/// A rank that was silent until the others had ended and left: it may find itself alone.
bool left_behind(const ElasticRun& run, int rank) {
  const auto ended = [&](std::size_t other) { return run.summaries[other] || run.errors[other]; };
  const auto left_before = [&](int other) {
    const auto& at = run.ended_at[static_cast<std::size_t>(other)];
    return at && *at < *run.ended_at[static_cast<std::size_t>(rank)];
  };
  const auto half = run.across.find(rank);
  if (half != run.across.end() && std::ranges::all_of(half->second, left_before)) return true;
  for (std::size_t other = 0; other < run.errors.size(); ++other)
    if (!run.struck.contains(static_cast<int>(other)) && !ended(other)) return false;
  return run.disturbed > 0 && run.struck.contains(rank);
}

bool too_few(const Error& error) {
  return error.code == Code::unrecoverable &&
         error.what.find("one replica needs") != std::string::npos;
}

/// Some members found that blocks were lost, as may be, and left; a member that dies just then can
/// keep that from others, who find those gone instead.
bool blocks_lost(const Case& what, const ElasticRun& run) {
  return run.most_open > what.copies &&
         std::any_of(run.errors.begin(), run.errors.end(), [](const std::optional<Error>& error) {
           return error && error->what.starts_with("blocks lost");
         });
}

/// Whether the rank's error tells of blocks or ranks that are gone, and so they may be.
bool may_be_lost(const Case& what, const ElasticRun& run, int rank) {
  const Error& error = *run.errors[static_cast<std::size_t>(rank)];
  if (left_behind(run, rank)) return error.what.starts_with("blocks lost") || too_few(error);
  if (error.what.starts_with("blocks lost")) return run.most_open > what.copies;
  return too_few(error) &&
         (what.ranks - std::ssize(run.struck) < what.tensor || blocks_lost(what, run));
}

}  // namespace

std::string ends(const ElasticRun& run) {
  std::string text;
  for (std::size_t rank = 0; rank < run.errors.size(); ++rank) {
    std::string end = "never ended";
    if (run.killed[rank])
      end = "killed";
    else if (run.summaries[rank])
      end = fmt::format("finished, digest {:016x}", run.summaries[rank]->digest);
    else if (run.errors[rank])
      end = run.errors[rank]->what + ": " + run.errors[rank]->why;
    else if (run.stopped[rank])
      end = "stopped";
    text += fmt::format("  rank {} {}{}\n", rank, end,
                        run.struck.contains(static_cast<int>(rank)) ? " (struck)" : "");
  }
  return text + fmt::format("  {} steps written, {} recoveries, newest view {}\n", run.steps.size(),
                            run.recoveries.size(), raw(run.newest));
}

void Tally::add(const ElasticRun& run) {
  ++runs;
  recoveries += std::ssize(run.recoveries);
  fired += run.fired;
  exposed += run.fired_exposed;
  for (const auto& [point, count] : run.hits) hits[point] += count;
}

Bench::Bench() {
  configure_log(LogLevel::error, "");  // every run warns of what it went through
  write_tokens(folder_.file("train.bin"), 4000, 37);
  write_tokens(folder_.file("val.bin"), 300, 37);
}

app::Config Bench::config_of(const Case& what) const {
  app::Config config = tiny_config(folder_.file("train.bin"));
  config.model.heads = 4;
  // With the embedding and the head: a layer for each chunk at least.
  config.model.layers = what.stages * what.chunks > 4 ? 4 : 2;
  config.train.steps = what.steps;
  config.train.global_batch = 16;
  config.parallel.pp = what.stages;
  config.parallel.tp = what.tensor;
  config.parallel.chunks = what.chunks;
  config.elastic.copies = what.copies;
  config.elastic.scrub_steps = 2;
  config.log.digest_every = what.digest_every;
  if (what.validate) {
    config.data.val = {folder_.file("val.bin")};
    config.train.val_every = 2;
    config.train.val_batches = 3;
  }
  if (what.checkpoints) config.checkpoint.every = 2;
  if (what.skip) {
    config.train.lr = 1e30;
    config.train.warmup_steps = 0;
    config.train.clip = 0;
    config.train.non_finite = "skip";
  }
  return config;
}

ElasticRun Bench::run(const Case& what) const {
  ::elaswave::testing::FakeFileSystem files;
  return train_elastic(config_of(what), options_of(what, what.checkpoints ? &files : nullptr));
}

const std::vector<app::StepReport>& Bench::reference(const Case& what) {
  app::Config config = config_of(what);
  const std::string key = fmt::format("{} {} {} {} {}", config.model.layers, what.tensor,
                                      what.steps, what.validate, what.skip);
  const auto found = references_.find(key);
  if (found != references_.end()) return found->second;
  config.parallel.pp = config.parallel.chunks = 1;
  config.log.digest_every = 1;
  config.checkpoint.every = 0;
  if (truth) truth(true);
  auto steps = train_simulated(config, {.ranks = static_cast<int>(what.tensor)}).steps;
  if (truth) truth(false);
  return references_[key] = std::move(steps);
}

const HitTable& Bench::hits(const Case& what) {
  Case healthy = what;
  healthy.faults.clear();
  healthy.seed = 1;
  healthy.latency_max = Case{}.latency_max;
  const std::string key = text(healthy);
  const auto found = hits_.find(key);
  if (found != hits_.end()) return found->second;
  ::elaswave::testing::FakeFileSystem files;
  if (truth) truth(true);
  HitTable hits =
      count_hits(config_of(healthy), options_of(healthy, healthy.checkpoints ? &files : nullptr));
  if (truth) truth(false);
  for (const auto& rank : hits)
    if (rank.empty()) return hits_[key] = HitTable();
  return hits_[key] = std::move(hits);
}

std::string Bench::judge_ends(const Case& what, const ElasticRun& run, bool& finished) {
  const std::uint64_t digest = *reference(what).back().digest;
  bool lost = false, excluded = false, living = false;
  for (std::size_t rank = 0; rank < run.errors.size(); ++rank) {
    if (run.killed[rank]) continue;
    const std::optional<Error>& error = run.errors[rank];
    if (run.summaries[rank]) {
      finished = true;
      if (run.summaries[rank]->digest != digest)
        return fmt::format("rank {} ends with another digest", rank);
    } else if (!error) {
      if (!run.stopped[rank]) return fmt::format("rank {} never ends", rank);
      continue;
    } else if (error->code == Code::excluded && run.disturbed > 0) {
      excluded = true;
      ++tally_.excluded;
    } else if (may_be_lost(what, run, static_cast<int>(rank))) {
      lost = true;
    } else {
      return fmt::format("rank {}: {}", rank, error->text());
    }
    living = true;
  }
  tally_.lost += lost ? 1 : 0;
  tally_.alone += !finished && !lost && excluded ? 1 : 0;
  if (!finished && !lost && !excluded && living) return "nobody finishes";
  return {};
}

std::string Bench::judge_steps(const Case& what, const ElasticRun& run, bool finished) {
  const std::vector<app::StepReport>& expected = reference(what);
  if (run.steps.size() > expected.size() || (finished && run.steps.size() < expected.size()))
    return fmt::format("{} steps written, {} trained", run.steps.size(), expected.size());
  for (std::size_t i = 0; i < run.steps.size(); ++i) {
    const bool due = (static_cast<std::int64_t>(i) + 1) % what.digest_every == 0;
    if (std::string wrong = difference(run.steps[i], expected[i], due); !wrong.empty())
      return wrong;
  }
  return {};
}

std::string Bench::judge(const Case& what, const ElasticRun& run) {
  if (!run.wrong.empty()) return run.wrong;
  if (!run.failure.empty()) return run.failure;
  bool finished = false;
  if (std::string wrong = judge_ends(what, run, finished); !wrong.empty()) return wrong;
  if (std::string wrong = judge_steps(what, run, finished); !wrong.empty()) return wrong;
  if (!finished) return {};
  // A failure after the last step is overcome by nobody: all leave as they are.
  if (run.disturbed == 0 && run.recovered == run.newest && run.report.undrained > 0)
    return fmt::format("{} messages of older views were never received", run.report.undrained);
  // Two steps after the recovery fill what is to be filled, unless they are told to take longer.
  if (what.fill_elems == 0 && raw(run.recovered_at) + 2 <= what.steps && run.whole < run.recovered)
    return fmt::format("the copies never follow again after the recovery of generation {}",
                       raw(run.recovered));
  return {};
}

std::string Bench::try_case(const Case& what) {
  const ElasticRun first = run(what);
  tally_.add(first);
  std::string wrong = judge(what, first);
  if (!wrong.empty() || tally_.runs % 20 != 0) return wrong;
  ++tally_.repeated;
  const ElasticRun again = run(what);
  if (again.report.trace_hash != first.report.trace_hash)
    return "the same case run again takes another course";
  return {};
}

}  // namespace elaswave::test
