#include "tests/chaos/shrink.h"

#include <algorithm>
#include <vector>

namespace elaswave::test {
namespace {

/// Ranks that a fault names.
int highest_rank(const Case& what) {
  int highest = 0;
  for (const Fault& fault : what.faults) {
    highest = std::max(highest, fault.rank);
    for (const int other : fault.also) highest = std::max(highest, other);
  }
  return highest;
}

template <typename Change>
void offer(std::vector<Case>& all, const Case& from, Change&& change) {
  Case simpler = from;
  change(simpler);
  if (simpler != from) all.push_back(std::move(simpler));
}

void simplify_fault(std::vector<Case>& all, const Case& from, std::size_t index) {
  const auto fault = [&](auto&& change) {
    offer(all, from, [&](Case& what) { change(what.faults[index]); });
  };
  offer(all, from, [&](Case& what) {
    what.faults.erase(what.faults.begin() + static_cast<std::ptrdiff_t>(index));
  });
  fault([](Fault& f) { f.also.clear(); });
  fault([](Fault& f) { f.delay = 0; });
  fault([](Fault& f) {
    f.kind = Fault::Kind::kill;
    f.lasts = 0;
  });
  fault([](Fault& f) { f.hit = 1; });
  fault([](Fault& f) { f.hit = (f.hit + 1) / 2; });
  fault([](Fault& f) { f.hit = std::max<std::int64_t>(1, f.hit - 1); });
}

/// Everything one change simpler, the boldest first.
std::vector<Case> simpler(const Case& from) {
  const Case usual;
  std::vector<Case> all;
  if (from.faults.size() > 1)
    for (std::size_t i = 0; i < from.faults.size(); ++i) simplify_fault(all, from, i);
  offer(all, from, [](Case& what) { what.validate = what.checkpoints = false; });
  offer(all, from, [](Case& what) { what.validate = false; });
  offer(all, from, [](Case& what) { what.checkpoints = false; });
  offer(all, from, [](Case& what) { what.skip = false; });
  offer(all, from, [](Case& what) { what.chunks = 1; });
  offer(all, from, [](Case& what) { what.copies = 1; });
  offer(all, from, [](Case& what) { what.per_domain = 1; });
  offer(all, from, [](Case& what) { what.fill_elems = 0; });
  offer(all, from, [&](Case& what) { what.latency_max = usual.latency_max; });
  offer(all, from, [](Case& what) { what.digest_every = 1; });
  offer(all, from, [](Case& what) { what.claims = true; });
  offer(all, from, [](Case& what) { what.seed = 1; });
  offer(all, from, [](Case& what) { what.tensor = std::max<std::int64_t>(1, what.tensor / 2); });
  offer(all, from, [](Case& what) { what.stages = std::max<std::int64_t>(1, what.stages - 1); });
  if (from.ranks - 1 > highest_rank(from) && from.ranks > from.stages * from.tensor)
    offer(all, from, [](Case& what) { --what.ranks; });
  offer(all, from, [](Case& what) { what.steps = std::max<std::int64_t>(2, what.steps - 1); });
  if (from.faults.size() == 1) simplify_fault(all, from, 0);
  return all;
}

}  // namespace

Case shrink(Case failing, const std::function<bool(const Case&)>& fails, int tries) {
  bool smaller = true;
  while (smaller) {
    smaller = false;
    for (Case& candidate : simpler(failing)) {
      if (--tries < 0) return failing;
      if (candidate.faults.empty() || !fails(candidate)) continue;
      failing = std::move(candidate);
      smaller = true;
      break;
    }
  }
  return failing;
}

}  // namespace elaswave::test
