// Random plans for tests: everything that layout::find_fault() lets pass, with rows that respect
// the order of a step (F before B or I, I before W) though a pipeline might not get through them.
#pragma once

#include <cstdint>

#include "io/base/philox.h"
#include "parallel/layout/plan.h"

namespace elaswave::test {

/// Random numbers from a seed, the same everywhere.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : stream_(random_stream(seed, RandomUse::test)) {}
  std::uint32_t word() { return random_word(stream_, next_++); }
  /// In [0, bound).
  std::int64_t below(std::int64_t bound) { return word() % bound; }
  /// In [least, most].
  std::int64_t between(std::int64_t least, std::int64_t most) {
    return least + below(most - least + 1);
  }
  bool one_in(std::int64_t n) { return below(n) == 0; }

 private:
  RandomStream stream_;
  std::uint64_t next_ = 0;
};

/// Tables as a model has them, with random sizes about the size of a block: a tied part in layer 0,
/// sliced and replicated ones everywhere.
layout::BlockTable random_table(Dice& dice, std::int32_t tensor_degree);

struct PlanRange {
  std::int32_t stages = 4, replicas = 3;  // at most; replicas of each stage
  std::int32_t micro_batches = 6;         // at most, at least 1
  /// Copies of each block. With any, ranks without a place are spares and keep some of them.
  std::int32_t copies = 0;
};

/// Any stages, uneven replicas, chunks round and round, down and up, or anywhere, world ranks in
/// any order, some of them without a place, replicas without a micro-batch, owners and backups
/// dealt at random.
layout::Plan random_plan(Dice& dice, const layout::BlockTable& blocks, std::int32_t tensor_degree,
                         const PlanRange& range);

/// One past the largest world rank of a plan.
std::int32_t world_size(const layout::Plan& plan);

}  // namespace elaswave::test
