// What every layer call is given: the device, the shapes, and which samples it is about.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/base/philox.h"
#include "io/base/types.h"
#include "model/kernels/ops.h"
#include "model/spec/config.h"
#include "model/spec/stash.h"
#include "parallel/comm/slice_group.h"

namespace elaswave::layers {

using spec::Recompute;

/// A tensor-parallel slice works on all N rows inside a product, with its share of the heads and of
/// the wide columns, and on its own rows between products (slice_group.h). One slice has it all.
struct Context {
  kernels::Ops& ops;
  device::Stream& stream;
  const spec::ModelConfig& config;
  std::int64_t micro_batch = 0;  // B, samples
  DType storage = DType::f32;    // of activations and matrices
  Recompute recompute = Recompute::none;
  std::int64_t loss_chunk_tokens = 0;       // HeadLoss::chunk_tokens; above 0 with a head
  comm::SliceGroup* slice_group = nullptr;  // null: one slice

  device::Device& device() const { return stream.device(); }
  std::int64_t tokens() const { return micro_batch * config.context; }  // N
  int slices() const { return slice_group == nullptr ? 1 : slice_group->slices(); }
  int slice() const { return slice_group == nullptr ? 0 : slice_group->slice(); }
  /// Of the N rows, this slice's own.
  comm::RowRange rows() const { return comm::rows_of_slice(tokens(), slice(), slices()); }
  /// Heads, and columns of all of them, that this slice has: H/t and C/t.
  std::int64_t heads() const { return config.heads / slices(); }
  std::int64_t width() const { return config.hidden / slices(); }
  std::int64_t head_begin() const { return slice() * heads(); }
};

/// One micro-batch. Everything random in it is named by (seed, step, position of the sample), so it
/// follows the data.
struct MicroBatch {
  std::uint64_t seed = 0;
  Step step{};
  std::span<const std::int64_t> positions_B;  // of the samples in the run's sample order
  // Of the host; what layers are given has them on the device.
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
