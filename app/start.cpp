#include "app/start.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace elaswave::app {
namespace {

// As sent: fixed size, no padding bytes with undefined content.
struct Card {
  std::int64_t failed = 0;
  std::int64_t code = 0;
  std::uint64_t recipe = 0, data = 0, plan = 0, fingerprint = 0;
  char numeric_class[256] = {};
};

Card card_of(const std::optional<Error>& failure, const StartIdentity& identity) {
  Card card;
  card.failed = failure ? 1 : 0;
  card.code = failure ? static_cast<std::int64_t>(failure->code) : 0;
  card.recipe = identity.recipe;
  card.data = identity.data;
  card.plan = identity.plan;
  card.fingerprint = identity.fingerprint;
  std::memcpy(card.numeric_class, identity.numeric_class.data(),
              std::min(identity.numeric_class.size(), sizeof card.numeric_class - 1));
  return card;
}

Error differs(int rank, std::string what, std::string why, std::string fix) {
  return {.code = Code::usage,
          .what = std::move(what),
          .where = fmt::format("rank {} compared with rank 0", rank),
          .why = std::move(why),
          .fix = std::move(fix)};
}

std::optional<Error> compare(int rank, const Card& first, const Card& other) {
  if (std::strcmp(first.numeric_class, other.numeric_class) != 0)
    return differs(
        rank, "ranks would compute different bits",
        fmt::format("numeric class {} on rank {}, {} on rank 0", other.numeric_class, rank,
                    first.numeric_class),
        "set device.isa to what every host has, and use the same build and libraries everywhere");
  if (first.recipe != other.recipe)
    return differs(rank, "ranks were told different runs",
                   "their recipes (model, train, numerics keys) differ",
                   "start every rank with the same command line, files and environment");
  if (first.data != other.data)
    return differs(rank, "ranks see different data",
                   "the fingerprints of data.train or data.val differ",
                   "make the same token files visible at the given paths on every host");
  if (first.plan != other.plan)
    return differs(rank, "ranks made different plans", "their plan digests differ",
                   "report this: it is a bug");
  if (first.fingerprint != other.fingerprint)
    return differs(rank, "ranks would compute different bits",
                   fmt::format("numerics fingerprint {:016x} on rank {}, {:016x} on rank 0",
                               other.fingerprint, rank, first.fingerprint),
                   "use hosts of one kind, or find the one whose libraries differ");
  return std::nullopt;
}

}  // namespace

Result<void> agree_start(comm::World& world, const std::optional<Error>& failure,
                         const StartIdentity& identity, Nanoseconds timeout) {
  const comm::Group group = comm::everyone(world);
  const Card mine = card_of(failure, identity);
  std::vector<Card> cards(static_cast<std::size_t>(group.size()));
  auto gathered = comm::all_gather(world, group, std::as_bytes(std::span(&mine, 1)),
                                   std::as_writable_bytes(std::span(cards)), "agreement at start",
                                   Deadline::after(world.clock(), timeout));
  if (failure) return fail(*failure);  // the cause, also when the others never came
  EW_TRY(gathered);
  for (int rank = 0; rank < group.size(); ++rank) {
    const Card& card = cards[static_cast<std::size_t>(rank)];
    if (card.failed != 0)
      return fail({.code = static_cast<Code>(card.code),
                   .what = fmt::format("rank {} could not start", rank),
                   .where = fmt::format("rank {}", world.world_rank()),
                   .why = "all ranks start together or not at all",
                   .fix = "see the message of that rank"});
  }
  for (int rank = 1; rank < group.size(); ++rank)
    if (auto error = compare(rank, cards.front(), cards[static_cast<std::size_t>(rank)]))
      return fail(*error);
  return {};
}

}  // namespace elaswave::app
