#include "elastic/recover/gate.h"

#include <vector>

#include "io/base/hash.h"

namespace elaswave::recover {
namespace {

std::int64_t block_hash(std::int64_t block) {
  return static_cast<std::int64_t>(mix64(static_cast<std::uint64_t>(block) + kGolden64));
}

/// Two's complement: a sum that may wrap.
std::int64_t add(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
}

}  // namespace

GateWords gate_words(const layout::Plan& plan, zero::Shard& shard, std::int32_t world_rank) {
  GateWords words{.world_rank = world_rank,
                  .plan_digest = static_cast<std::int64_t>(layout::digest(plan)),
                  .step = raw(shard.version.step),
                  .generation = raw(shard.version.generation)};
  for (const zero::HeldBlock& held : shard.owned()) {
    if (!shard.whole(held.block)) {
      ++words.not_whole;
      continue;
    }
    ++words.owned;
    words.owned_hash = add(words.owned_hash, block_hash(held.block));
  }
  return words;
}

std::string find_gate_fault(std::span<const GateWords> table, std::int64_t blocks) {
  std::int64_t owned = 0, hash = 0, expected_hash = 0;
  const GateWords& first = table.front();
  for (const GateWords& member : table) {
    owned += member.owned;
    hash = add(hash, member.owned_hash);
    if (member.not_whole > 0)
      return fmt::format("rank {} lacks the state of {} blocks it owns", member.world_rank,
                         member.not_whole);
    const auto differs = [&](std::string_view what, std::int64_t GateWords::*field) {
      if (member.*field == first.*field) return std::string();
      return fmt::format("ranks {} and {} differ in {}: {} and {}", first.world_rank,
                         member.world_rank, what, first.*field, member.*field);
    };
    for (std::string fault : {differs("the plan", &GateWords::plan_digest),
                              differs("the step of their state", &GateWords::step),
                              differs("the generation of their state", &GateWords::generation),
                              differs("the number of updates", &GateWords::updates),
                              differs("the commit record", &GateWords::record_hash)})
      if (!fault.empty()) return fault;
  }
  for (std::int64_t block = 0; block < blocks; ++block)
    expected_hash = add(expected_hash, block_hash(block));
  if (owned != blocks || hash != expected_hash)
    return fmt::format("{} blocks are owned, the model has {}: not each exactly once", owned,
                       blocks);
  return {};
}

Result<void> pass_gate(comm::World& world, const comm::Group& group, const GateWords& mine,
                       std::int64_t blocks, Deadline deadline) {
  std::vector<GateWords> table(static_cast<std::size_t>(group.size()));
  EW_TRY(comm::all_gather(world, group, std::as_bytes(std::span(&mine, 1)),
                          std::as_writable_bytes(std::span(table)), "gate", deadline));
  std::string fault = find_gate_fault(table, blocks);
  if (fault.empty()) return {};
  return fail({.code = Code::unrecoverable,
               .what = "the gate stays shut: the state after a failure is not sound",
               .where = fmt::format("recovery, generation {}", raw(group.generation)),
               .why = std::move(fault),
               .fix = "start again from the newest checkpoint, and report this"});
}

}  // namespace elaswave::recover
