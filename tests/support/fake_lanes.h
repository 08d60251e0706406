// Lanes over the fake NCCL, for training runs in the simulated world.
#pragma once

#include <memory>
#include <utility>

#include "model/kernels/ops.h"
#include "parallel/comm/group_lanes.h"
#include "parallel/comm/simulation.h"
#include "tests/support/fake_nccl.h"

namespace elaswave::test {

/// The host's arithmetic in the order of a fake stream.
class FakeArithmetic final : public device::Arithmetic {
 public:
  explicit FakeArithmetic(FakeStream& stream) : stream_(stream) {}
  device::Device& device() override { return host_.device(); }
  void zero(std::span<std::byte> bytes) override {
    stream_.enqueue([this, bytes] { host_.zero(bytes); });
  }
  void copy(std::span<const std::byte> from, std::span<std::byte> to) override {
    stream_.enqueue([this, from, to] { host_.copy(from, to); });
  }
  void add(std::span<std::int64_t> into, std::span<const std::int64_t> from) override {
    stream_.enqueue([this, into, from] { host_.add(into, from); });
  }
  void add(std::span<float> into, std::span<const float> from) override {
    stream_.enqueue([this, into, from] { host_.add(into, from); });
  }
  void copy_rows(const device::ConstMat& from, const device::Mat& to) override {
    stream_.enqueue([this, from, to] { host_.copy_rows(from, to); });
  }
  void sum_rows(std::span<const device::ConstMat> addends, const device::Mat& out) override {
    stream_.enqueue([this, list = std::vector(addends.begin(), addends.end()), out] {
      host_.sum_rows(list, out);
    });
  }

 private:
  FakeStream& stream_;
  device::Arithmetic& host_ = device::host_arithmetic();
};

/// Of a rank that has a device of its own.
inline std::unique_ptr<comm::DeviceLanes> fake_lanes(FakeNccl& nccl, comm::World& world,
                                                     comm::World& front, device::Stream& compute,
                                                     comm::LaneLimits limits = {}) {
  const int rank = world.world_rank();
  Clock& clock = world.clock();
  return std::make_unique<comm::GroupLanes>(comm::GroupLanesParts{
      .world = world,
      .front = front,
      .compute = compute,
      .nccl = nccl.table(rank, clock),
      .start = nccl.start(rank),
      .place = comm::device_place(1, fmt::format("{}", rank), NCCL_VERSION_CODE),
      .make_stream =
          [&nccl, rank, &clock] {
            auto stream = std::make_unique<FakeStream>(nccl, rank, clock);
            const cudaStream_t handle = stream->queue().handle;
            auto arithmetic = std::make_unique<FakeArithmetic>(*stream);
            return comm::LaneStream{std::move(stream), handle, std::move(arithmetic)};
          },
      .limits = limits});
}

}  // namespace elaswave::test
