// Faults as a person asks for them, and what they mean for one rank. Pure: every rank reads the
// same text and agrees on every fault, those drawn at random included. README.md has the syntax.
// ERRORS: Code::usage with the offending text and what would do.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/base/error.h"
#include "io/base/probe.h"
#include "io/base/types.h"

namespace elaswave::chaos {

enum class Kind : std::uint8_t { kill, stop, exit, hang, slow, cut, corrupt };
std::string_view name(Kind kind);

/// Whom a fault hits.
struct Who {
  enum class Set : std::uint8_t { ranks, domain, any } set = Set::ranks;
  std::vector<std::int32_t> ranks;  // world ranks, ascending
  std::string domain;
  std::uint64_t seed = 1;  // of `any`: one rank of all, dead ones too; then nothing happens
};

enum class Target : std::uint8_t { message, copy };

struct Fault {
  Kind kind = Kind::kill;
  Who who;                               // cut: one side
  std::vector<std::int32_t> far;         // cut: the other side
  std::optional<Step> step;              // nothing: any step ("step=any")
  std::optional<Step> until;             // slow, cut: the last step of it; nothing: for ever
  std::optional<std::int64_t> lasts_ms;  // cut: ends so long after it has begun at a rank
  Point point = Point::step_begin;
  std::int64_t at = 1;  // which hit of the point in the step; of any step: in the run
  double factor = 1;    // slow
  int code = 70;        // exit; 70 is what a bug in our own code leaves with
  Target target = Target::message;
  std::string text;  // as it was written, for messages
};

/// Independent of each other for every rank and step; the point is drawn among those of a step.
struct RandomFaults {
  std::uint64_t seed = 1;
  double rate = 0;  // probability for one rank in one step
  std::vector<Kind> kinds = {Kind::kill};
};

struct Faults {
  std::vector<Fault> list;
  std::optional<RandomFaults> random;
  bool empty() const { return list.empty() && !random; }
};

/// Each text may hold several faults, separated by ';'.
Result<std::vector<Fault>> parse_faults(Kind kind, const std::vector<std::string>& texts);
Result<RandomFaults> parse_random(const std::string& text);

/// Names a fault that can hit nobody: a rank that the world does not have.
Result<void> check_ranks(const Faults& faults, std::int32_t world_size);

/// Who a rank is, as far as faults ask.
struct Self {
  std::int32_t world_rank = 0;
  std::int32_t world_size = 1;
  std::string domain;
};

bool meant(const Who& who, const Self& self);

/// The random fault that hits this rank in this step.
struct Drawn {
  Kind kind = Kind::kill;
  Point point = Point::step_begin;
};
std::optional<Drawn> drawn(const RandomFaults& random, std::int32_t world_rank, Step step);

/// How many times as long as usual an action of this rank takes: sleep (factor - 1) times its time.
double slow_factor(const Faults& faults, const Self& self, Step step);

/// True when at this step a cut is to stand between two ranks, its time apart.
bool cut(const Fault& fault, std::int32_t a, std::int32_t b, Step step);
/// True when it is to stand between this rank and any other.
bool cut_at(const Fault& fault, std::int32_t world_rank, Step step);

}  // namespace elaswave::chaos
