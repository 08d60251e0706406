// What the executor asks of the layers of a rank: one call for each action. The model implements
// it (model/gpt), and so does the emulated device (a sleep of the modelled time).
#pragma once

#include <cstdint>
#include <functional>

#include "io/base/error.h"
#include "parallel/device/buffer.h"
#include "parallel/layout/action.h"

namespace elaswave::pipeline {

/// Shape of what passes between chunks on one slice: the residual stream and its gradient.
struct BoundaryShape {
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::f32;

  std::int64_t size_bytes() const { return rows * cols * elaswave::size_bytes(dtype); }
};

/// One action with the memory it works on. Boundary matrices are dense, of BoundaryShape, and
/// belong to the executor. Slots number memory that the stage allocated when it was made, as many
/// of each chunk as Slots (program.h) says.
struct Task {
  layout::Action action;
  /// The residual stream as it enters the chunk's first block: written by F of the first chunk,
  /// given everywhere else. The same memory from F to the last action of (chunk, micro-batch).
  device::Mat input;
  device::Mat output;  // F: to be written; empty for the last chunk
  device::Mat
      gradient;  // B, I: of the output (unspecified for the last chunk); becomes the input's
  std::int32_t stash = -1;         // F, R, B, I, W: what forward keeps for backward
  std::int32_t keep = -1;          // F .. B or I: what recompute cannot bring back (the head's)
  std::int32_t weight_stash = -1;  // I .. W
  /// The last action of this chunk in the row that adds to weight gradients (B or W; for the tied
  /// embedding of the last chunk, F).
  bool final = false;
  bool final_tied = false;  // F of the last chunk: the last addend from the head
  bool evaluate = false;    // F without gradients: nothing is kept
};

/// Called when this rank's sums of a layer are complete: `tied` is about the layer's contribution
/// to the tied embedding alone (the head's), else all the layer's own tensors. Called once for each
/// layer of the rank and step, and once with `tied` for the head.
using SumsDone = std::function<Result<void>(std::int32_t layer, bool tied)>;

class StageOps {
 public:
  virtual ~StageOps() = default;
  virtual Result<void> run(const Task& task) = 0;
};

}  // namespace elaswave::pipeline
