#include "tests/chaos/draw.h"

#include <algorithm>
#include <iterator>

#include "parallel/comm/wire_sim.h"

namespace elaswave::test {
namespace {

class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed) {}
  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(bound)));
  }
  bool one_in(std::int64_t count) { return below(count) == 0; }
  template <typename T>
  T of(std::initializer_list<T> values) {
    return *std::next(values.begin(), below(std::ssize(values)));
  }

 private:
  comm::SimRandom random_;
};

/// A hit of a point that the rank passes in a run without faults.
Fault any_fault(Draw& draw, const HitTable& table) {
  const auto rank = static_cast<int>(draw.below(std::ssize(table)));
  const auto& hits = table[static_cast<std::size_t>(rank)];
  const auto at = std::next(hits.begin(), draw.below(std::ssize(hits)));
  return {.rank = rank, .point = at->first, .hit = 1 + draw.below(at->second)};
}

/// Of a recovery, and of the filling of copies after it.
constexpr std::initializer_list<Point> kRecoveryPoints = {
    Point::recover_begin,        Point::recover_inventory,
    Point::recover_roll_forward, Point::recover_planned,
    Point::recover_moved,        Point::recover_gate,
    Point::recover_done,         Point::fill};

void into_recovery(Draw& draw, Fault& fault) {
  fault.point = draw.of(kRecoveryPoints);
  fault.hit = 1 + (draw.one_in(4) ? 1 : 0);
}

void share_fate(const Case& what, Fault& fault) {
  const int first = fault.rank / what.per_domain * what.per_domain;
  for (int rank = first; rank < std::min(what.ranks, first + what.per_domain); ++rank)
    if (rank != fault.rank) fault.also.push_back(rank);
}

Case any_layout(Draw& draw) {
  Case what;
  what.tensor = draw.of<std::int64_t>({1, 1, 1, 2, 2, 4});
  what.stages = 1 + draw.below(8 / what.tensor >= 4 ? 4 : 8 / what.tensor);
  if (what.stages > 1 && what.stages < 4 && draw.one_in(3)) what.chunks = 2;
  const auto least = static_cast<int>(what.tensor * what.stages);
  what.ranks = least + static_cast<int>(draw.below(9 - least));
  what.copies = draw.of<std::int64_t>({1, 1, 2});
  what.per_domain = draw.of({1, 1, 2, 4});
  what.steps = 4 + draw.below(5);
  what.digest_every = 1 + draw.below(3);
  what.validate = draw.one_in(4);
  what.checkpoints = draw.one_in(6);
  what.skip = draw.one_in(8);
  what.fill_elems = draw.of<std::int64_t>({0, 0, 1, 600});
  what.claims = !draw.one_in(4);
  return what;
}

}  // namespace

std::vector<Case> layouts() {
  return {{.ranks = 4},
          {.ranks = 4, .stages = 2},
          {.ranks = 4, .stages = 2, .chunks = 2},
          {.ranks = 8, .stages = 4},
          {.ranks = 7, .stages = 3},
          {.ranks = 8, .stages = 2, .tensor = 2},
          {.ranks = 6, .tensor = 2},  // after a failure one is to spare
          {.ranks = 8, .tensor = 4},
          {.ranks = 8, .stages = 2, .per_domain = 4},
          {.ranks = 5, .stages = 2, .copies = 2}};
}

void first_failures(Bench& bench, bool everything, const std::function<bool(const Case&)>& each) {
  std::uint64_t seed = 0;
  for (const Case& layout : layouts()) {
    const HitTable& table = bench.hits(layout);
    for (int rank = 0; rank < std::ssize(table); ++rank)
      for (const auto& [point, count] : table[static_cast<std::size_t>(rank)]) {
        const std::int64_t stride = everything ? 1 : std::max<std::int64_t>(1, (count - 1) / 2);
        for (std::int64_t hit = 1; hit <= count; hit += stride)
          for (const Fault::Kind kind : {Fault::Kind::kill, Fault::Kind::stop}) {
            Case what = layout;
            what.seed = ++seed;
            what.faults = {{.kind = kind, .rank = rank, .point = point, .hit = hit}};
            if (!each(what)) return;
          }
      }
  }
}

void pairs_of_failures(Bench& bench, const std::function<bool(const Case&)>& each) {
  std::uint64_t seed = 0;
  for (const Case& layout : layouts()) {
    std::vector<Fault> firsts, seconds;
    const HitTable& table = bench.hits(layout);
    for (int rank = 0; rank < std::ssize(table); ++rank) {
      for (const auto& [point, count] : table[static_cast<std::size_t>(rank)])
        firsts.push_back({.rank = rank, .point = point, .hit = (count + 1) / 2});
      for (const Point point : kRecoveryPoints)
        seconds.push_back({.rank = rank, .point = point, .hit = 1});
    }
    seconds.insert(seconds.end(), firsts.begin(), firsts.end());
    for (const Fault& first : firsts)
      for (const Fault& second : seconds) {
        if (first.rank == second.rank) continue;
        Case what = layout;
        what.seed = ++seed;
        what.faults = {first, second};
        if (seed % 5 == 0) what.faults[0].kind = Fault::Kind::stop;
        if (seed % 7 == 0) what.faults[1].kind = Fault::Kind::stop;
        if (!each(what)) return;
      }
  }
}

Case second_failure(Bench& bench, std::uint64_t seed) {
  Draw draw(seed);
  const std::vector<Case> all = layouts();
  Case what = all[static_cast<std::size_t>(draw.below(std::ssize(all)))];
  what.seed = seed;
  const HitTable& table = bench.hits(what);
  Fault one = any_fault(draw, table), other = any_fault(draw, table);
  if (!draw.one_in(3)) into_recovery(draw, other);
  if (draw.one_in(5)) one.kind = Fault::Kind::stop;
  if (draw.one_in(5)) other.kind = Fault::Kind::stop;
  what.faults = {one, other};
  return what;
}

Case random_schedule(Bench& bench, std::uint64_t seed) {
  Draw draw(seed);
  Case what = any_layout(draw);
  // Some layouts ask for what the model or the ranks do not have.
  while (bench.hits(what).empty()) what = any_layout(draw);
  what.seed = seed;
  what.latency_max = draw.of<Nanoseconds>({2'000, 50'000, 50'000, 2'000'000});
  const HitTable& table = bench.hits(what);
  const std::int64_t count = 1 + draw.below(4);
  for (std::int64_t i = 0; i < count; ++i) {
    using enum Fault::Kind;
    Fault fault = any_fault(draw, table);
    if (i > 0 && draw.one_in(2)) into_recovery(draw, fault);
    fault.kind = draw.of({kill, kill, kill, stop, pause, cut});
    if (fault.kind == pause || fault.kind == cut)
      fault.lasts = draw.of<Nanoseconds>(
          {kMillisecond, 20 * kMillisecond, 80 * kMillisecond, 300 * kMillisecond, 2 * kSecond});
    if (draw.one_in(4)) fault.delay = draw.below(3 * kMillisecond);
    if (what.per_domain > 1 && draw.one_in(3)) share_fate(what, fault);
    what.faults.push_back(fault);
  }
  return what;
}

}  // namespace elaswave::test
