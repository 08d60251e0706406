#include "app/restore.h"

#include <exception>

#include "app/checkpointing.h"
#include "app/phase.h"
#include "app/state_ranges.h"
#include "io/base/log.h"
#include "io/checkpoint/publish.h"
#include "io/checkpoint/reader.h"
#include "io/checkpoint/store.h"

namespace elaswave::app {
namespace {

/// What the reporter found, as broadcast; an error's text goes the way of all errors at start: the
/// others say that rank 0 failed.
struct Choice {
  enum class Kind : std::int64_t { none, manifest, failed } kind = Kind::none;
  std::int64_t code = 0;
  std::int64_t text_bytes = 0;
};

Error other_rank_failed(Code code, const std::string& directory) {
  return {.code = code,
          .what = "no checkpoint could be loaded",
          .where = directory,
          .why = "another rank said so",
          .fix = "see the message of that rank"};
}

constexpr std::string_view kSessionName = ".session";

std::string session_text(std::uint64_t session) {
  return fmt::format("{:016x}\n", session);
}

/// Better to hear at the start than at the first checkpoint that nothing can be written.
Result<void> try_to_write(FileSystem& files, const std::string& path, std::string_view text) {
  EW_ASSIGN(const bool left_over, exists(files, path));
  if (left_over) EW_TRY(files.remove_file(path));
  EW_ASSIGN(const std::unique_ptr<FileHandle> file, files.create(path, Caching::buffered));
  return file->write_at(0, std::as_bytes(std::span(text)));
}

Error misnamed(const std::string& path, Step step) {
  return {.code = Code::usage,
          .what = "a checkpoint has another one's name",
          .where = path,
          .why = fmt::format("it is of step {}", raw(step)),
          .fix = "give it its own name back"};
}

/// DIRECTORY.1, or the first number that is free.
Result<std::string> free_name(FileSystem& files, const std::string& directory) {
  for (int number = 1;; ++number) {
    std::string name = fmt::format("{}.{}", directory, number);
    EW_ASSIGN(const bool taken, exists(files, name));
    if (!taken) return name;
  }
}

class Restorer {
 public:
  explicit Restorer(const RestoreRequest& request) : request_(request) {}

  Result<std::optional<Restored>> run() {
    EW_TRY(check_sight());
    for (;;) {
      EW_ASSIGN(std::optional<Restored> candidate, choose());
      if (!candidate) return std::optional<Restored>();
      EW_TRY(request_.accept(candidate->manifest, candidate->path));
      EW_TRY(check_tensors(*candidate));
      EW_ASSIGN(const bool whole, load(*candidate));
      if (whole) return candidate;
    }
  }

 private:
  bool reporter() const {
    return request_.world.world_rank() == request_.group.world_ranks.front();
  }
  Deadline deadline() const { return Deadline::after(request_.world.clock(), request_.timeout); }

  /// For the watchdog: how long a disk takes is not this process's doing.
  template <typename Call>
  auto at_the_disk(Call call) {
    const Phase phase(request_.world, request_.shard.version.step, FlightPhase::outside, "disk");
    return call();
  }

  /// COLLECTIVE. Every rank must see the directory that the reporter sees, and write there.
  Result<void> check_sight() {
    Result<void> mine = at_the_disk([&] { return see(); });
    std::int64_t blind = mine ? 0 : 1;
    EW_TRY(comm::all_reduce_sum(request_.world, request_.group, std::span(&blind, 1),
                                "sight of the checkpoints", deadline()));
    if (!mine) return mine;
    if (blind > 0) return fail(other_rank_failed(Code::usage, request_.directory));
    return {};
  }

  Result<void> see() {
    const auto mark =
        read_text(request_.files, fmt::format("{}/{}", request_.directory, kSessionName));
    if (!mark || *mark != session_text(request_.session))
      return fail(
          {.code = Code::usage,
           .what = "this rank sees another directory than the lowest rank",
           .where = fmt::format("rank {}, {}", request_.world.world_rank(), request_.directory),
           .why = mark ? "the mark left there is of another run" : mark.error().why,
           .fix = "give a path on a file system that all hosts share"});
    const std::string probe =
        fmt::format("{}/.probe-{}", request_.directory, request_.world.world_rank());
    EW_TRY(try_to_write(request_.files, probe, "elaswave\n"));
    return request_.files.remove_file(probe);
  }

  /// The newest checkpoint with a sound manifest; others are set aside on the way.
  Result<std::optional<std::string>> choose_text(std::string& path) {
    EW_ASSIGN(const std::vector<Step> steps,
              checkpoint::list_steps(request_.files, request_.directory));
    for (const Step step : steps) {
      if (request_.newest && step > *request_.newest) continue;
      path = request_.directory + "/" + checkpoint::step_name(step);
      const auto manifest = checkpoint::read_manifest(request_.files, path);
      if (manifest && manifest->step == step) return checkpoint::to_text(*manifest);
      const Error why = manifest ? misnamed(path, manifest->step) : manifest.error();
      if (why.code != Code::corrupt) return fail(why);
      EW_TRY(set_aside(step, why));
    }
    EW_ASSIGN(const std::string trace,
              checkpoint::trace_of_checkpoints(request_.files, request_.directory));
    if (trace.empty() || request_.newest) return std::optional<std::string>();
    return fail(
        {.code = Code::corrupt,
         .what = "no checkpoint is sound",
         .where = request_.directory,
         .why = fmt::format("there was one ({} is there), but none that could be used", trace),
         .fix = "restore one from a copy, or start over with --train.fresh"});
  }

  /// LATEST names one that was set aside, or was never written.
  void mend_latest(Step step) const {
    const auto latest = read_text(
        request_.files, fmt::format("{}/{}", request_.directory, checkpoint::kLatestName));
    if (latest && *latest == checkpoint::step_name(step) + "\n") return;
    if (const auto written = checkpoint::write_latest(request_.files, request_.directory, step);
        !written)
      log_warn("cannot write LATEST: {}", written.error().why);
  }

  /// What is passed over must not be taken for sound by whoever looks next.
  void set_newer_aside() const {
    const auto steps = checkpoint::list_steps(request_.files, request_.directory);
    for (const Step step : steps.value_or(std::vector<Step>())) {
      if (!request_.newest || step <= *request_.newest) continue;
      const auto aside = checkpoint::set_aside(request_.files, request_.directory, step);
      if (aside)
        log_warn("the checkpoint of step {} may hold damage; it is now {}", raw(step), *aside);
      else
        log_error("the checkpoint of step {} may hold damage: {}", raw(step), aside.error().text());
    }
  }

  Result<void> set_aside(Step step, const Error& why) {
    EW_ASSIGN(const std::string aside,
              checkpoint::set_aside(request_.files, request_.directory, step));
    log_error("checkpoint of step {} is damaged ({}: {}); it is now {}", raw(step), why.where,
              why.why, aside);
    return {};
  }

  /// COLLECTIVE. All ranks get the reporter's choice.
  Result<std::optional<Restored>> choose() {
    std::string text, path;
    Choice choice;
    std::optional<Error> failure;
    if (reporter()) {
      auto chosen = at_the_disk([&] { return choose_text(path); });
      if (!chosen) {
        failure = chosen.error();
        choice = {Choice::Kind::failed, static_cast<std::int64_t>(failure->code), 0};
      } else if (*chosen) {
        text = std::move(**chosen);
        choice = {Choice::Kind::manifest, 0, std::ssize(text)};
      }
    }
    EW_TRY(comm::broadcast(request_.world, request_.group, 0,
                           std::as_writable_bytes(std::span(&choice, 1)), "choice of checkpoint",
                           deadline()));
    if (failure) return fail(*failure);
    if (choice.kind == Choice::Kind::failed)
      return fail(other_rank_failed(static_cast<Code>(choice.code), request_.directory));
    if (choice.kind == Choice::Kind::none) return std::optional<Restored>();
    text.resize(static_cast<std::size_t>(choice.text_bytes));
    EW_TRY(comm::broadcast(request_.world, request_.group, 0,
                           std::as_writable_bytes(std::span(text)), "manifest", deadline()));
    EW_ASSIGN(checkpoint::Manifest manifest,
              checkpoint::parse_manifest(text, "the manifest as sent by the lowest rank"));
    path = request_.directory + "/" + checkpoint::step_name(manifest.step);
    return std::optional(Restored{std::move(manifest), std::move(path)});
  }

  Result<void> check_tensors(const Restored& candidate) const {
    if (candidate.manifest.tensors == manifest_tensors(request_.inventory)) return {};
    return fail({.code = Code::usage,
                 .what = "the checkpoint holds other tensors than the model",
                 .where = candidate.path,
                 .why = "names or shapes differ",
                 .fix = "use the program version and model keys that wrote it"});
  }

  /// COLLECTIVE. False: damaged, and set aside.
  Result<bool> load(const Restored& candidate) {
    const Result<void> mine = at_the_disk([&] { return try_load_own(candidate); });
    // Before anybody goes on from it: whoever takes over from a reporter that dies here begins
    // anew.
    if (mine && reporter()) at_the_disk([&] { set_newer_aside(); });
    std::int64_t words[] = {!mine && mine.error().code == Code::corrupt ? 1 : 0,
                            !mine && mine.error().code != Code::corrupt ? 1 : 0};
    EW_TRY(comm::all_reduce_sum(request_.world, request_.group, words, "loading a checkpoint",
                                deadline()));
    if (words[1] > 0)
      return fail(mine ? other_rank_failed(Code::io, candidate.path) : mine.error());
    if (words[0] == 0) {
      if (reporter()) mend_latest(candidate.manifest.step);
      request_.shard.version = {candidate.manifest.step, request_.group.generation};
      return true;
    }
    if (!mine) log_error("{}", mine.error().text());
    std::int64_t refused = 0;
    Result<void> renamed;
    if (reporter()) {
      renamed = at_the_disk([&] { return set_aside_if_damaged(candidate, mine); });
      refused = renamed ? 0 : 1;
    }
    EW_TRY(comm::broadcast(request_.world, request_.group, 0,
                           std::as_writable_bytes(std::span(&refused, 1)), "set aside",
                           deadline()));
    if (!renamed) return fail(renamed.error());
    if (refused != 0) return fail(other_rank_failed(Code::io, candidate.path));
    return false;
  }

  /// By the reporter, when a rank found damage.
  Result<void> set_aside_if_damaged(const Restored& candidate, const Result<void>& mine) {
    if (!mine) return set_aside(candidate.manifest.step, mine.error());
    const auto damages = checkpoint::verify(request_.files, candidate.path);
    if (damages.empty())
      return fail({.code = Code::io,
                   .what = "another rank cannot read what this one can",
                   .where = candidate.path,
                   .why = "every byte is as written where the lowest rank looks",
                   .fix = "see the message of that rank; check its host's file system"});
    return set_aside(candidate.manifest.step, {.code = Code::corrupt,
                                               .what = "a checkpoint is damaged",
                                               .where = damages.front().file,
                                               .why = damages.front().what,
                                               .fix = ""});
  }

  /// load_own(), with what the system refuses (memory, threads) as an error: peers must hear of it.
  Result<void> try_load_own(const Restored& candidate) {
    try {
      return load_own(candidate);
    } catch (const std::exception& problem) {
      return fail({.code = Code::io,
                   .what = "a checkpoint could not be loaded",
                   .where = candidate.path,
                   .why = problem.what(),
                   .fix = "look at the limits of memory and processes"});
    }
  }

  /// This rank's blocks, and its share of the bytes that are in no block: together the ranks look
  /// at every byte.
  Result<void> load_own(const Restored& candidate) {
    EW_TRY(
        checkpoint::read_wants(request_.files, candidate.path, candidate.manifest,
                               state_wants(request_.inventory, request_.blocks, request_.shard)));
    const auto self =
        static_cast<std::size_t>(request_.group.index_of(request_.world.world_rank()));
    const auto size = static_cast<std::size_t>(request_.group.size());
    const std::vector<checkpoint::FileEntry>& files = candidate.manifest.files;
    for (std::size_t i = self; i < files.size(); i += size) {
      if (!files[i].pieces.empty()) {
        EW_TRY(checkpoint::verify_frame(request_.files, candidate.path, files[i]));
        continue;
      }
      // Derived from the manifest: the state is whole without it.
      for (const auto& damage : checkpoint::verify_file(request_.files, candidate.path, files[i]))
        log_warn("{}/{} is damaged ({}); mend it with: elaswave checkpoint reindex {}",
                 candidate.path, damage.file, damage.what, candidate.path);
    }
    return {};
  }

  const RestoreRequest& request_;
};

}  // namespace

Result<void> prepare_checkpoints(FileSystem& files, const std::string& directory, Start start,
                                 std::uint64_t session) {
  EW_ASSIGN(const bool there, exists(files, directory));
  if (there && start == Start::fresh) {
    EW_ASSIGN(const std::string aside, free_name(files, directory));
    EW_TRY(files.rename(directory, aside));
    log_warn("{} of an earlier run is now {}", directory, aside);
  }
  EW_TRY(make_directories(files, directory));
  EW_TRY(checkpoint::sweep(files, directory));
  return try_to_write(files, fmt::format("{}/{}", directory, kSessionName), session_text(session));
}

Result<std::optional<Restored>> restore(const RestoreRequest& request) {
  return Restorer(request).run();
}

}  // namespace elaswave::app
