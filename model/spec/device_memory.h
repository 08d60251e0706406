// What a device with memory of its own takes beside what layers and exchanges hold: scratch of the
// kernels and libraries of the CUDA backend, and messages on their way. As shapes; tests/property/
// memory_cuda_test.cpp compares them with what is allocated. Pure.
#pragma once

#include <cstdint>

#include "model/spec/stash.h"

namespace elaswave::spec {

/// Of every matrix product (kernels::cuda::Gemm::kWorkspaceBytes), and the most that a product on
/// its way into exact sums takes (kSinkBytes).
inline constexpr std::int64_t kProductWorkspaceBytes = 32 << 20;
inline constexpr std::int64_t kProductSinkBytes = 64 << 20;

/// Micro-batches whose tokens may be on their way to a device at once, in page-locked memory: so
/// far may a host be ahead of it (gpt::Stage).
inline constexpr std::int64_t kTokensAhead = 8;

/// The calls that a rank makes.
struct DeviceCalls {
  const StashShape& shape;
  LayerKinds kinds;
  std::int64_t samples = 1;  // of a micro-batch
  DType storage = DType::f32;
  bool exact = true;     // sums
  bool dropout = false;  // in training
  std::int64_t loss_chunk_tokens = 0;
  std::int64_t owned_blocks = 0;
};

struct DeviceScratch {
  double logits = 0;      // with one slice
  double workspaces = 0;  // all else on the device
  double lists = 0;       // page-locked
};
/// Where a library does attention (bf16 and no dropout) the gradient of all probabilities is
/// counted, the most that its engines are known to ask for.
DeviceScratch device_scratch(const DeviceCalls& calls);

/// Page-locked, bytes: rows of partial sums from and to each other slice.
double slice_messages(const DeviceCalls& calls);

}  // namespace elaswave::spec
