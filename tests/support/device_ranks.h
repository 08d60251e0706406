// Ranks of the simulated world with device groups over the fake NCCL.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "parallel/comm/device_group.h"
#include "parallel/comm/simulation.h"
#include "tests/support/fake_nccl.h"

namespace elaswave::test {

struct DeviceRank {
  comm::World& world;
  FakeNccl& nccl;
  comm::DeviceGroups groups;
  FakeStream stream;

  DeviceRank(comm::World& its_world, FakeNccl& its_nccl)
      : world(its_world),
        nccl(its_nccl),
        groups(world, nccl.table(world.world_rank(), world.clock()),
               nccl.start(world.world_rank())),
        stream(nccl, world.world_rank(), world.clock()) {}

  int me() const { return world.world_rank(); }
  Nanoseconds now() const { return world.clock().now(); }
  Deadline in(Nanoseconds duration) const { return Deadline::after(world.clock(), duration); }
  NcclFaults& faults() { return nccl.faults(me()); }
  Result<comm::DeviceGroup*> make(const comm::Group& group, Nanoseconds patience = kSecond) {
    return groups.make(group, comm::share_over(world, group), in(patience));
  }
  Result<comm::DeviceGroup*> make_everyone(Nanoseconds patience = kSecond) {
    return make(comm::everyone(world), patience);
  }
  Result<void> drain(comm::DeviceGroup& group, Nanoseconds patience = kSecond) {
    return group.wait(stream, stream.mark(), "drain", in(patience));
  }
  /// As recovery ends a view whose communicators work.
  void let_go() {
    groups.stop_all(in(kSecond));
    const auto released = groups.release_all(in(kSecond));
    EXPECT_TRUE(released) << released.error().text();
    EXPECT_EQ(groups.count(), 0);
  }
};

inline std::string text_of(const std::vector<std::string>& lines) {
  return std::accumulate(
      lines.begin(), lines.end(), std::string(),
      [](std::string all, const std::string& line) { return all + line + "\n"; });
}

/// Runs `body` on each rank; what it did to NCCL must have been right.
inline void run_device_ranks(comm::SimulationOptions options, FakeNccl& nccl,
                             const std::function<void(DeviceRank&)>& body) {
  const auto report = comm::simulate(options, [&](comm::World& world) {
    DeviceRank rank(world, nccl);
    body(rank);
  });
  ASSERT_TRUE(report) << "seed " << options.seed << ": " << report.error().text();
  EXPECT_TRUE(nccl.misuse().empty()) << "seed " << options.seed << ":\n" << text_of(nccl.misuse());
}

inline void run_device_ranks(int ranks, FakeNccl& nccl,
                             const std::function<void(DeviceRank&)>& body) {
  run_device_ranks({.ranks = ranks, .probe = {}}, nccl, body);
}

}  // namespace elaswave::test
