// Compiles a list of attention operations (sdpa_ops.h) with cuDNN into a plan that runs on a GPU.
// The choice is the first configuration of the library's heuristic mode A that it supports: a
// function of (library version, device, graph), nothing is timed. Takes 0.2 to 1 s a graph.
// THREADS: one at a time for a plan and for a handle; plans may be made in parallel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/error.h"
#include "model/kernels/sdpa_ops.h"

struct cudnnContext;

namespace elaswave::kernels {

/// What plans are made for: the device of a handle, or, where that is null, a description of a
/// device (JSON, cuDNN's DEVICEPROP descriptor). The second kind needs no GPU and cannot run.
struct SdpaTarget {
  cudnnContext* handle = nullptr;
  std::string_view device_json;
};

/// Where a tensor of the caller lies: device memory, matrices aligned to 16 bytes.
struct SdpaMemory {
  SdpaBinding binding{};
  void* data = nullptr;
};

class SdpaPlan {
 public:
  struct Parts;
  SdpaPlan(std::unique_ptr<Parts> parts, std::string engine, std::int64_t workspace_bytes);
  SdpaPlan(SdpaPlan&&) noexcept;
  SdpaPlan& operator=(SdpaPlan&&) noexcept;
  ~SdpaPlan();

  /// Device memory that run() writes; 0 is possible.
  std::int64_t workspace_bytes() const { return workspace_bytes_; }
  /// Engine and knobs, which with the library version say what its bits depend on: "engine 6: 2=1
  /// 24=0".
  const std::string& engine() const { return engine_; }

  /// Enqueues on the stream of the handle that the plan was made with. `memory` names every tensor
  /// that the graph has in SdpaPlace::memory. Throws device::DeviceLost.
  void run(cudnnContext* handle, std::span<const SdpaMemory> memory, std::byte* workspace) const;

 private:
  std::unique_ptr<Parts> parts_;
  std::string engine_;
  std::int64_t workspace_bytes_;
};

/// Code::unavailable when the library has no engine for the graph on the target.
Result<SdpaPlan> plan_sdpa(const SdpaGraph& graph, const SdpaTarget& target);

/// Does the library work on the target at all? Without the libraries that it loads by name, NVRTC
/// above all, its heuristics name no engine for any graph and give no reason: what looks like a
/// refusal of every shape. Code::unavailable says so. Takes as long as a plan.
Result<void> check_sdpa(const SdpaTarget& target);

/// One configuration that the heuristics name.
struct SdpaCandidate {
  std::string engine;
  std::int64_t workspace_bytes = 0;  // of a supported one
  std::string refusal;               // empty when it is supported
};
/// All of them in the library's order; plan_sdpa() takes the first without a refusal.
Result<std::vector<SdpaCandidate>> sdpa_candidates(const SdpaGraph& graph,
                                                   const SdpaTarget& target);

}  // namespace elaswave::kernels
