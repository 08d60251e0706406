// What a layer function is given, the scratch memory that all of them share, and the exchanges
// between the slices of a replica.
#pragma once

#include <string_view>

#include "model/layers/activation.h"
#include "model/layers/context.h"
#include "model/layers/parameters.h"

namespace elaswave::layers {

/// Which layers a rank runs, and so which scratch they need.
struct LayerKinds {
  bool embedding = false, blocks = false, head = false;
};

/// The head on a slice of the vocabulary: one chunk of tokens. (A whole one's logits are the
/// kernels' own scratch.)
struct SlicedHeadScratch {
  SlicedHeadScratch() = default;
  explicit SlicedHeadScratch(const Context& context);

  Activation logits_NV;  // f32
  device::Array<kernels::LogitStats> stats_N, stats_SN, total_N;

  std::int64_t memory_bytes() const;
};

/// Memory that one call at a time uses. Nothing in it outlives the call, but for the head's losses
/// and input, which stay until the next.
struct LayerScratch {
  LayerScratch(const Context& context, const LayerKinds& kinds);

  // All N rows, also on a slice.
  Activation branch_NC;         // what a product adds to the residual stream, and its gradient
  Activation norm_NC;           // rows out of a norm, and their gradient
  Activation wide_N4C;          // gradient inside the MLP; of qkv, as an N x 3C matrix
  Activation act_N4C;           // where forward does not keep it
  Activation term_NC;           // f32: of a sum over slices, where storage is not f32
  device::Array<float> loss_N;  // in nats
  SlicedHeadScratch sliced_head;

  std::int64_t memory_bytes() const;
};

/// One call of a layer: references for as long as it lasts.
struct LayerCall {
  const Context& context;
  const spec::Inventory& inventory;
  const Parameters& parameters;
  Gradients& gradients;
  const MicroBatch& batch;
  LayerScratch& scratch;
};

/// This slice's own rows of a matrix of all rows.
inline device::Mat own_rows(const Context& context, device::Mat all_NC) {
  const comm::RowRange rows = context.rows();
  return all_NC.rows_from(rows.begin, rows.count());
}

/// COLLECTIVE over the slices. All rows, given everyone's own: `own_NC` itself where there is one
/// slice, else `all_NC` filled. `own_NC` may lie inside `all_NC`, in its place.
Result<device::ConstMat> gather_rows(const Context& context, device::ConstMat own_NC,
                                     device::Mat all_NC, std::string_view operation);

/// Where a slice's term of a sum over slices goes whose own rows are to lie in those of `all_NC`:
/// there, if it is f32. A term is not rounded, the sum is. With one slice the term is the sum.
device::Mat term_of_sum(const LayerCall& call, device::Mat all_NC);
/// COLLECTIVE over the slices. This slice's own rows of the sum of everyone's term_of_sum(all_NC),
/// in own_rows(all_NC). Nothing is done where there is one slice.
Result<device::Mat> sum_rows(const LayerCall& call, device::Mat all_NC, std::string_view operation);

}  // namespace elaswave::layers
