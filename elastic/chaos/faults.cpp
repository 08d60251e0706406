// What faults mean: who is hit, and when.
#include "elastic/chaos/faults.h"

#include <algorithm>

#include "io/base/hash.h"

namespace elaswave::chaos {
namespace {

// Draws of faults share no words with anything that is trained.
constexpr std::uint64_t kAnySalt = 0x63'68'61'6F'73'2D'61'6E;     // "chaos-an"
constexpr std::uint64_t kRandomSalt = 0x63'68'61'6F'73'2D'72'61;  // "chaos-ra"

std::uint64_t draw(std::uint64_t salt, std::uint64_t seed, std::uint64_t a, std::uint64_t b) {
  return combine64(combine64(combine64(salt, seed), a), b);
}

bool contains(const std::vector<std::int32_t>& ranks, std::int32_t rank) {
  return std::binary_search(ranks.begin(), ranks.end(), rank);
}

/// For faults that last.
bool lasts(const Fault& fault, Step step) {
  return (!fault.step || step >= *fault.step) && (!fault.until || step <= *fault.until);
}

Result<void> check(const std::vector<std::int32_t>& ranks, const Fault& fault,
                   std::int32_t world_size) {
  for (const std::int32_t rank : ranks)
    if (rank >= world_size)
      return fail({.code = Code::usage,
                   .what = fmt::format("a fault is meant for rank {}, which there is not", rank),
                   .where = fmt::format("chaos.{}={}", name(fault.kind), fault.text),
                   .why = fmt::format("the run has {} ranks", world_size),
                   .fix = fmt::format("name ranks 0 to {}", world_size - 1)});
  return {};
}

}  // namespace

std::string_view name(Kind kind) {
  constexpr std::string_view kNames[] = {"kill", "stop", "exit", "hang", "slow", "cut", "corrupt"};
  return kNames[static_cast<std::size_t>(kind)];
}

Result<void> check_ranks(const Faults& faults, std::int32_t world_size) {
  for (const Fault& fault : faults.list) {
    EW_TRY(check(fault.who.ranks, fault, world_size));
    EW_TRY(check(fault.far, fault, world_size));
  }
  return {};
}

bool meant(const Who& who, const Self& self) {
  switch (who.set) {
    case Who::Set::ranks:
      return contains(who.ranks, self.world_rank);
    case Who::Set::domain:
      return who.domain == self.domain;
    case Who::Set::any:
      break;
  }
  const auto size = static_cast<std::uint64_t>(self.world_size);
  return draw(kAnySalt, who.seed, 0, 0) % size == static_cast<std::uint64_t>(self.world_rank);
}

std::optional<Drawn> drawn(const RandomFaults& random, std::int32_t world_rank, Step step) {
  const std::uint64_t word = draw(kRandomSalt, random.seed, static_cast<std::uint64_t>(world_rank),
                                  static_cast<std::uint64_t>(raw(step)));
  // 53 bits make every double in [0, 1) that is a multiple of 2^-53 equally likely.
  if (static_cast<double>(word >> 11) * 0x1p-53 >= random.rate) return std::nullopt;
  // Points that every rank passes in every step.
  constexpr auto kPoints = static_cast<std::uint64_t>(Point::after_gather) + 1;
  const std::uint64_t more = mix64(word + kGolden64);
  return Drawn{.kind = random.kinds[(more >> 32) % random.kinds.size()],
               .point = static_cast<Point>((more & 0xFFFFFFFF) % kPoints)};
}

double slow_factor(const Faults& faults, const Self& self, Step step) {
  double factor = 1;
  for (const Fault& fault : faults.list)
    if (fault.kind == Kind::slow && lasts(fault, step) && meant(fault.who, self))
      factor = std::max(factor, fault.factor);
  return factor;
}

bool cut(const Fault& fault, std::int32_t a, std::int32_t b, Step step) {
  const std::vector<std::int32_t>& near = fault.who.ranks;
  return fault.kind == Kind::cut && lasts(fault, step) &&
         ((contains(near, a) && contains(fault.far, b)) ||
          (contains(near, b) && contains(fault.far, a)));
}

bool cut_at(const Fault& fault, std::int32_t world_rank, Step step) {
  return fault.kind == Kind::cut && lasts(fault, step) &&
         (contains(fault.who.ranks, world_rank) || contains(fault.far, world_rank));
}

}  // namespace elaswave::chaos
