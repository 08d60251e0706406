// Metric: time from "everybody knows who is gone" to groups without it, the slowest survivor after
// a barrier, median of the rounds; the same up to the end of a first all-reduce of one word over
// the survivors; and of a second all-reduce alone, which is what the transport costs anyway. One
// rank really dies (SIGKILL) first. Groups of every rank: all survivors, and its data, pipeline and
// tensor group.
//   edit      a view is entered (World::adopt_view) and the groups are lists with the rank left out
//   partial   MPI_Comm_create_group for the groups that held the rank, by their survivors
//   full      MPI_Comm_create_group for all groups of all ranks
//   split     MPI_Comm_create_group for all survivors, MPI_Comm_split of it for the others
// MPI_Finalize and MPI_Init again is no choice: MPI can be initialised once per process, and after
// a death MPI_Finalize does not return. Freeing what the rank was in is not counted.
// Usage: mpirun -n RANKS --enable-recovery [--oversubscribe --bind-to none] regroup_bench TENSOR
//   PIPELINE [ROUNDS]
#include <fmt/format.h>
#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "parallel/comm/group.h"
#include "parallel/comm/threaded_world.h"
#include "parallel/comm/wire_mpi.h"

namespace elaswave::comm {
namespace {

// A hang of MPI after a death must end the benchmark, not the machine's evening.
constexpr unsigned kAlarmSeconds = 240;
constexpr std::size_t kGroups = 4;  // all, data, pipeline, tensor

struct Shape {
  int ranks = 0, tensor = 1, pipeline = 1, rounds = 21;
  int victim() const { return ranks / 2; }
  /// World ranks in the groups of `world_rank` before the death. Ranks count tensor slices first,
  /// then stages.
  std::array<std::vector<int>, kGroups> groups(int world_rank) const;
};

std::array<std::vector<int>, kGroups> Shape::groups(int world_rank) const {
  const auto tensor_index = [&](int rank) { return rank % tensor; };
  const auto stage = [&](int rank) { return rank / tensor % pipeline; };
  const auto replica = [&](int rank) { return rank / tensor / pipeline; };
  std::array<std::vector<int>, kGroups> made;
  for (int rank = 0; rank < ranks; ++rank) {
    const bool same_tensor = tensor_index(rank) == tensor_index(world_rank);
    const bool same_stage = stage(rank) == stage(world_rank);
    const bool same_replica = replica(rank) == replica(world_rank);
    made[0].push_back(rank);
    if (same_tensor && same_stage) made[1].push_back(rank);
    if (same_tensor && same_replica) made[2].push_back(rank);
    if (same_stage && same_replica) made[3].push_back(rank);
  }
  return made;
}

/// Of the slowest rank, by round: groups, groups and first sum, second sum.
constexpr std::size_t kLaps = 3;
using Times = std::array<std::vector<Nanoseconds>, kLaps>;

double median_us(std::vector<Nanoseconds> values) {
  std::ranges::sort(values);
  return static_cast<double>(values[values.size() / 2]) / 1e3;
}

/// MPI after the death, on the thread that initialised it.
class Rebuild {
 public:
  Rebuild(const Shape& shape, int world_rank) : shape_(shape), world_rank_(world_rank) {
    before_ = shape.groups(world_rank);
    for (std::size_t i = 0; i < kGroups; ++i) {
      after_[i] = before_[i];
      std::erase(after_[i], shape.victim());
    }
    MPI_Comm_group(MPI_COMM_WORLD, &world_group_);
    base_ = create(0);
  }

  enum class Way : std::uint8_t { partial, full, split };
  Times measure(Way way) {
    Times times;
    for (int round = 0; round <= shape_.rounds; ++round) {  // the first one warms up
      MPI_Barrier(base_);
      const double begin = MPI_Wtime();
      std::array<MPI_Comm, kGroups> made = make(way);
      const double grouped = MPI_Wtime();
      std::int64_t word = 1, sum = 0;
      MPI_Allreduce(&word, &sum, 1, MPI_INT64_T, MPI_SUM, made[0]);
      const double summed = MPI_Wtime();
      std::int64_t again = 0;
      MPI_Allreduce(&word, &again, 1, MPI_INT64_T, MPI_SUM, made[0]);
      const double end = MPI_Wtime();
      const std::array mine{grouped - begin, summed - begin, end - summed};
      std::array<double, kLaps> slowest{};
      MPI_Allreduce(mine.data(), slowest.data(), kLaps, MPI_DOUBLE, MPI_MAX, base_);
      EW_CHECK(sum == shape_.ranks - 1, "{} survivors answered", sum);
      for (MPI_Comm& comm : made)
        if (comm != MPI_COMM_NULL) MPI_Comm_free(&comm);
      if (round == 0) continue;
      for (std::size_t i = 0; i < kLaps; ++i)
        times[i].push_back(static_cast<Nanoseconds>(slowest[i] * 1e9));
    }
    return times;
  }

 private:
  /// COLLECTIVE over the survivors of the rank's group `index`.
  MPI_Comm create(std::size_t index) const {
    MPI_Group group = MPI_GROUP_NULL;
    MPI_Group_incl(world_group_, static_cast<int>(after_[index].size()), after_[index].data(),
                   &group);
    MPI_Comm comm = MPI_COMM_NULL;
    MPI_Comm_create_group(MPI_COMM_WORLD, group, static_cast<int>(index), &comm);
    MPI_Group_free(&group);
    return comm;
  }

  std::array<MPI_Comm, kGroups> make(Way way) const {
    std::array<MPI_Comm, kGroups> made;
    made.fill(MPI_COMM_NULL);
    made[0] = create(0);
    for (std::size_t i = 1; i < kGroups; ++i) {
      if (way == Way::split)
        MPI_Comm_split(made[0], before_[i].front(), world_rank_, &made[i]);
      else if (way == Way::full || after_[i].size() < before_[i].size())
        made[i] = create(i);
    }
    return made;
  }

  Shape shape_;
  int world_rank_;
  std::array<std::vector<int>, kGroups> before_, after_;
  MPI_Group world_group_ = MPI_GROUP_NULL;
  MPI_Comm base_ = MPI_COMM_NULL;
};

/// Entering a view and leaving the rank out of the lists. The members stay the same from round to
/// round: what entering costs does not depend on who is missing.
Result<Times> measure_edit(World& world, const Shape& shape) {
  const auto deadline = [&] { return Deadline::after(world.clock(), 60 * kSecond); };
  std::vector<int> live;
  for (int rank = 0; rank < shape.ranks; ++rank)
    if (rank != shape.victim()) live.push_back(rank);
  const std::array<std::vector<int>, kGroups> before = shape.groups(world.world_rank());
  Times times;
  for (int round = 0; round <= shape.rounds; ++round) {
    if (round > 0) {
      std::int64_t word = 0;
      EW_TRY(all_reduce_sum(world, everyone(world), {&word, 1}, "barrier", deadline()));
    }
    const Generation generation{static_cast<std::uint32_t>(round) + 1};
    const Nanoseconds begin = world.clock().now();
    world.publish_view(generation);
    world.adopt_view(generation, live);
    std::array<Group, kGroups> groups;
    for (std::size_t i = 0; i < kGroups; ++i) {
      groups[i] = {before[i], generation};
      std::erase(groups[i].world_ranks, shape.victim());
    }
    const Nanoseconds grouped = world.clock().now();
    std::int64_t survivors = 1;
    EW_TRY(all_reduce_sum(world, groups[0], {&survivors, 1}, "first sum", deadline()));
    const Nanoseconds summed = world.clock().now();
    std::int64_t again = 1;
    EW_TRY(all_reduce_sum(world, groups[0], {&again, 1}, "second sum", deadline()));
    const Nanoseconds end = world.clock().now();
    EW_CHECK(survivors == std::ssize(live), "{} survivors answered", survivors);
    const std::array mine{grouped - begin, summed - begin, end - summed};
    std::vector<std::array<Nanoseconds, kLaps>> all(live.size());
    EW_TRY(all_gather(world, groups[0], std::as_bytes(std::span(mine)),
                      std::as_writable_bytes(std::span(all)), "times", deadline()));
    if (round == 0) continue;
    for (std::size_t i = 0; i < kLaps; ++i)
      times[i].push_back((*std::ranges::max_element(
          all, {}, [i](const std::array<Nanoseconds, kLaps>& one) { return one[i]; }))[i]);
  }
  return times;
}

void print(const char* name, const Times& times, const Times& edit) {
  const auto ratio = [&](std::size_t lap) { return median_us(times[lap]) / median_us(edit[lap]); };
  fmt::print("| {} | {:.0f} | {:.2f} | {:.0f} | {:.2f} | {:.0f} |\n", name, median_us(times[0]),
             ratio(0), median_us(times[1]), ratio(1), median_us(times[2]));
}

Result<void> run(Shape shape) {
  Times partial, full, split;
  // The baselines run where the world would: on the one thread that may call MPI.
  const OpenWire open = [&]() -> Result<std::unique_ptr<Wire>> {
    EW_ASSIGN(std::unique_ptr<Wire> wire, open_mpi_wire());
    shape.ranks = wire->size();
    MPI_Barrier(MPI_COMM_WORLD);
    if (wire->world_rank() == shape.victim()) ::kill(::getpid(), SIGKILL);
    Rebuild rebuild(shape, wire->world_rank());
    partial = rebuild.measure(Rebuild::Way::partial);
    full = rebuild.measure(Rebuild::Way::full);
    split = rebuild.measure(Rebuild::Way::split);
    return wire;
  };
  EW_ASSIGN(const std::unique_ptr<World> world, make_threaded_world(open, {}));
  EW_ASSIGN(const Times edit, measure_edit(*world, shape));
  if (world->world_rank() == 0) {
    fmt::print(
        "{} ranks, {} x {} x {} (data, pipeline, tensor), rank {} killed, {} rounds, {} "
        "cores\n",
        shape.ranks, shape.ranks / shape.pipeline / shape.tensor, shape.pipeline, shape.tensor,
        shape.victim(), shape.rounds, std::thread::hardware_concurrency());
    fmt::print(
        "| way | groups, us | against edit | with a first sum, us | against edit | a second sum, "
        "us |\n"
        "|---|---|---|---|---|---|\n");
    print("edit", edit, edit);
    print("partial", partial, edit);
    print("full", full, edit);
    print("split", split, edit);
    std::fflush(stdout);
  }
  // Nobody may leave while others still need its acknowledgements.
  std::int64_t word = 0;
  EW_TRY(all_reduce_sum(*world, everyone(*world), {&word, 1}, "end",
                        Deadline::after(world->clock(), 60 * kSecond)));
  ::_exit(0);  // after a death the transport is not finalized
}

}  // namespace
}  // namespace elaswave::comm

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("usage: regroup_bench TENSOR PIPELINE [ROUNDS]\n", stderr);
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  alarm(elaswave::comm::kAlarmSeconds);
  setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);  // as make_mpi_world() does
  const auto result = elaswave::comm::run({.ranks = 0,
                                           .tensor = std::max(1, std::atoi(argv[1])),
                                           .pipeline = std::max(1, std::atoi(argv[2])),
                                           .rounds = argc > 3 ? std::atoi(argv[3]) : 21});
  if (!result) std::fprintf(stderr, "%s\n", result.error().text().c_str());
  return 1;
}
