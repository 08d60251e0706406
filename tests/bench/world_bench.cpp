// What the worlds cost. Metrics: simulation, switches and messages per second of processor time;
// MPI, half a round trip (median) and bytes per second one way, each as a ratio to the same
// exchange with plain MPI_Isend/MPI_Irecv in the same run. Use: world_bench [--simulation | --mpi];
// --mpi under mpirun -n 2.
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <vector>

#include "parallel/comm/group.h"
#include "parallel/comm/simulation.h"
#include "parallel/comm/threaded_world.h"
#include "parallel/comm/wire_mpi.h"

namespace elaswave::comm {
namespace {

constexpr Deadline kNoDeadline{INT64_MAX};

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void expect(const Result<void>& result) {
  if (!result) fmt::print(stderr, "{}\n", result.error().text());
  EW_CHECK(result, "a benchmark's transfer failed");
}

/// Of this process: the simulation is one thread, and other work of the machine must not count.
double cpu_seconds_of(const std::function<void()>& work) {
  const std::clock_t begin = std::clock();
  work();
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

void bench_simulation() {
  SimulationReport report;
  double seconds = cpu_seconds_of([&] {
    report = *simulate({.ranks = 8, .probe = {}}, [](World& world) {
      for (int i = 0; i < 50'000; ++i) world.clock().sleep(1000);
    });
  });
  fmt::print("simulation: {:.2f} M switches/s ({:.0f} ns each, sleeping ranks)\n",
             static_cast<double>(report.switches) / seconds / 1e6,
             seconds * 1e9 / static_cast<double>(report.switches));

  seconds = cpu_seconds_of([&] {
    report = *simulate({.ranks = 8, .probe = {}}, [](World& world) {
      std::int64_t out = 0, in = 0;
      const int me = world.world_rank();
      for (int i = 0; i < 20'000; ++i) {
        const Work receive = world.receive((me + 7) % 8, Channel::control,
                                           {std::as_writable_bytes(std::span(&in, 1))});
        const Work send =
            world.send((me + 1) % 8, Channel::control, {std::as_bytes(std::span(&out, 1))});
        expect(world.wait(receive, "ring", kNoDeadline));
        expect(world.wait(send, "ring", kNoDeadline));
      }
    });
  });
  fmt::print(
      "simulation: {:.2f} M messages/s of 8 bytes ({:.0f} ns each, {:.2f} switches a message)\n",
      static_cast<double>(report.messages) / seconds / 1e6,
      seconds * 1e9 / static_cast<double>(report.messages),
      static_cast<double>(report.switches) / static_cast<double>(report.messages));

  // The traffic of a small training run without its arithmetic: 6 steps, 8 ranks, 6 layers, each
  // rank sends its part of each layer's gradients to each owner and gets working weights back, then
  // the commit all-reduce.
  constexpr int kRuns = 20;
  seconds = cpu_seconds_of([&] {
    for (int r = 0; r < kRuns; ++r)
      report = *simulate(
          {.ranks = 8, .seed = static_cast<std::uint64_t>(r), .probe = {}}, [](World& world) {
            const int me = world.world_rank();
            std::vector<std::byte> gradient(1024), weights(512), in(8 * 1024), in_weights(8 * 512);
            for (int step = 0; step < 6; ++step) {
              for (int layer = 0; layer < 6; ++layer) {
                std::vector<Work> works;
                for (std::size_t peer = 0; peer < 8; ++peer) {
                  if (static_cast<int>(peer) == me) continue;
                  const int p = static_cast<int>(peer);
                  works.push_back(world.receive(p, Channel::reduce,
                                                {std::span(in).subspan(peer * 1024, 1024)}));
                  works.push_back(world.send(p, Channel::reduce, {gradient}));
                  works.push_back(world.receive(p, Channel::gather,
                                                {std::span(in_weights).subspan(peer * 512, 512)}));
                  works.push_back(world.send(p, Channel::gather, {weights}));
                }
                for (const Work& work : works) expect(world.wait(work, "layer", kNoDeadline));
              }
              std::vector<std::int64_t> record(70);
              expect(all_reduce_sum(world, everyone(world), record, "commit", kNoDeadline));
            }
          });
  });
  fmt::print(
      "simulation: {:.0f} schedules/s of 8 ranks x 6 steps without arithmetic ({} messages, {} "
      "switches each)\n",
      kRuns / seconds, report.messages, report.switches);
}

struct Exchange {
  std::int64_t bytes;
  int rounds;
};
constexpr Exchange kExchanges[] = {{8, 2000}, {64 << 10, 500}, {4 << 20, 40}, {64 << 20, 4}};

struct Times {
  double half_trip_us = 0;          // median
  double gigabytes_per_second = 0;  // one way, at a time
};

Times summary(std::vector<double> trips, std::int64_t bytes) {
  std::sort(trips.begin(), trips.end());
  const double half = trips[trips.size() / 2] / 2;
  return {half * 1e6, static_cast<double>(bytes) / half / 1e9};
}

/// Plain MPI with the same non-blocking calls; runs on the thread that owns MPI.
std::vector<Times> raw_times(int me) {
  std::vector<Times> times;
  for (const auto& exchange : kExchanges) {
    const auto [bytes, rounds] = exchange;
    const int count = static_cast<int>(bytes);
    std::vector<char> buffer(static_cast<std::size_t>(bytes));
    std::vector<double> trips;
    auto send = [&] {
      MPI_Request request;
      MPI_Isend(buffer.data(), count, MPI_BYTE, 1 - me, 1, MPI_COMM_WORLD, &request);
      MPI_Wait(&request, MPI_STATUS_IGNORE);
    };
    auto receive = [&] {
      MPI_Request request;
      MPI_Irecv(buffer.data(), count, MPI_BYTE, 1 - me, 1, MPI_COMM_WORLD, &request);
      MPI_Wait(&request, MPI_STATUS_IGNORE);
    };
    for (int i = 0; i < rounds; ++i)
      trips.push_back(seconds_of([&] {
        if (me == 0) send();
        receive();
        if (me == 1) send();
      }));
    times.push_back(summary(std::move(trips), bytes));
  }
  return times;
}

std::vector<Times> world_times(World& world) {
  std::vector<Times> times;
  const int me = world.world_rank();
  for (const auto [bytes, rounds] : kExchanges) {
    std::vector<std::byte> buffer(static_cast<std::size_t>(bytes));
    std::vector<double> trips;
    auto send = [&] {
      expect(world.wait(world.send(1 - me, Channel::pipeline, {buffer}), "ping", kNoDeadline));
    };
    auto receive = [&] {
      expect(world.wait(world.receive(1 - me, Channel::pipeline, {buffer}), "pong", kNoDeadline));
    };
    for (int i = 0; i < rounds; ++i)
      trips.push_back(seconds_of([&] {
        if (me == 0) send();
        receive();
        if (me == 1) send();
      }));
    times.push_back(summary(std::move(trips), bytes));
  }
  return times;
}

void bench_mpi() {
  // As make_mpi_world does, for both.
  setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
  setenv("OMPI_MCA_pml_ob1_send_pipeline_depth", "32", 0);
  std::vector<Times> raw;
  auto made = make_threaded_world(
      [&raw]() -> Result<std::unique_ptr<Wire>> {
        EW_ASSIGN(auto wire, open_mpi_wire());
        EW_CHECK(wire->size() == 2, "the benchmark is for two ranks");
        raw = raw_times(wire->world_rank());
        return wire;
      },
      {});
  EW_CHECK(made, "no world: {}", made.error().text());
  World& world = **made;
  const std::vector<Times> ours = world_times(world);
  if (world.world_rank() == 0)
    for (std::size_t i = 0; i < std::size(kExchanges); ++i)
      fmt::print(
          "mpi: {:>9} bytes: half trip {:.1f} us, plain MPI {:.1f} us, ratio {:.2f}; {:.2f} GB/s, "
          "plain {:.2f}\n",
          kExchanges[i].bytes, ours[i].half_trip_us, raw[i].half_trip_us,
          ours[i].half_trip_us / raw[i].half_trip_us, ours[i].gigabytes_per_second,
          raw[i].gigabytes_per_second);
  expect(world.close(Deadline::after(world.clock(), 10 * kSecond)));
}

}  // namespace
}  // namespace elaswave::comm

int main(int argc, char** argv) {
  const bool all = argc < 2;
  if (all || std::strcmp(argv[1], "--simulation") == 0) elaswave::comm::bench_simulation();
  if (!all && std::strcmp(argv[1], "--mpi") == 0) elaswave::comm::bench_mpi();
  return 0;
}
