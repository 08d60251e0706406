// What every layer call is given: the device, the shapes, and which samples it is about.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/base/philox.h"
#include "io/base/types.h"
#include "model/kernels/ops.h"
#include "model/spec/config.h"

namespace elaswave::layers {

struct Context {
  kernels::Ops& ops;
  device::Stream& stream;
  const spec::ModelConfig& config;
  std::int64_t micro_batch = 0;  // B, samples
  DType storage = DType::f32;    // of activations and matrices

  std::int64_t tokens() const { return micro_batch * config.context; }  // N
};

/// One micro-batch. Everything random in it is named by (seed, step, position of the sample), so it
/// follows the data.
struct MicroBatch {
  std::uint64_t seed = 0;
  Step step{};
  std::span<const std::int64_t> positions_B;  // of the samples in the run's sample order
  std::span<const std::int32_t> ids_N;
  std::span<const std::int32_t> targets_N;
  float dropout = 0;  // rate; 0 in validation
};

/// The dropout of one place of one layer for a micro-batch. Owns the streams that `spec()` points
/// to.
class LayerDropout {
 public:
  LayerDropout(const MicroBatch& batch, RandomUse use, std::int64_t layer) : rate_(batch.dropout) {
    if (rate_ == 0) return;
    streams_.reserve(batch.positions_B.size());
    for (const std::int64_t position : batch.positions_B)
      streams_.push_back(random_stream(batch.seed, use, static_cast<std::uint64_t>(raw(batch.step)),
                                       static_cast<std::uint64_t>(position),
                                       static_cast<std::uint64_t>(layer)));
  }
  kernels::Dropout spec() const { return {rate_, streams_}; }

 private:
  float rate_;
  std::vector<RandomStream> streams_;
};

}  // namespace elaswave::layers
