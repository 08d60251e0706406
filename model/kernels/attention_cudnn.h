// Attention of ops.h on a GPU by cuDNN: bf16, causal, without dropout. What it does not take, and
// what the library has no engine for, is for another kernel. Bits: forward and backward are each
// one plan of deterministic operations (sdpa_ops.h), chosen by (library version, device, shape).
// THREADS: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "io/base/error.h"
#include "io/base/unique.h"
#include "model/kernels/ops.h"
#include "model/kernels/sdpa_graph.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::kernels {

class CudnnAttention {
 public:
  /// Of the workspace and of its parts, in bytes.
  static constexpr std::int64_t kWorkspaceAlignment = 256;

  /// Opens the library on the device, which must outlive the result, and makes a plan to see that
  /// it works. Code::unavailable when the library or the driver is too old for each other, or a
  /// library is missing that it loads by name; device_lost when the device is.
  static Result<std::unique_ptr<CudnnAttention>> create(device::CudaDevice& device);
  ~CudnnAttention();
  CudnnAttention(const CudnnAttention&) = delete;
  CudnnAttention& operator=(const CudnnAttention&) = delete;

  /// May prepare() be asked? A function of types, shapes, strides and dropout alone.
  static bool supported(const AttentionForward& args);
  static bool supported(const AttentionBackward& args);

  /// Makes the plan for the shapes and strides of `args`, or finds the one made before, refusals
  /// too; reads no memory. A refusal is logged once. Returns the bytes of workspace: 256-byte
  /// aligned device memory that a call writes. REQUIRES: supported(args). Takes up to a second the
  /// first time. A backward's workspace holds the gradient of all probabilities, 2 * B * H * T^2
  /// bytes: the price of the same bits every time.
  Result<std::int64_t> prepare(const AttentionForward& args);
  Result<std::int64_t> prepare(const AttentionBackward& args);

  /// Enqueue; allocate no device memory. REQUIRE: prepare(args) gave a value, `workspace` has as
  /// many bytes and is in use by no other stream, every matrix is aligned to 16 bytes. Throw
  /// device::DeviceLost.
  void forward(device::CudaStream& stream, std::span<std::byte> workspace,
               const AttentionForward& args);
  void backward(device::CudaStream& stream, std::span<std::byte> workspace,
                const AttentionBackward& args);

  /// What the bits depend on besides device and shapes, which choose the plans: "cudnn 91900".
  std::string numeric_class() const;
  /// Of the library version and of shape, engine and knobs of every plan made so far, whatever the
  /// order they were made in: two processes that prepared the same shapes compare it.
  std::uint64_t plans_hash() const;
  /// One line for each plan made so far: "forward b16 t1024 h12 d64 strides 2304 768 0 0: engine 2:
  /// 24=7".
  std::string plans_text() const;

 private:
  struct HandleTraits {
    using handle_type = cudnnContext*;
    static handle_type null() { return nullptr; }
    static void release(handle_type handle);
  };
  using Plans = std::map<SdpaShape, Result<SdpaPlan>>;

  explicit CudnnAttention(device::CudaDevice& device) : device_(&device) {}
  const Result<SdpaPlan>& plan(Plans& plans, const SdpaShape& shape,
                               SdpaGraph (*graph)(const SdpaShape&));
  const SdpaPlan& prepared(const Plans& plans, const SdpaShape& shape, std::int64_t extra_bytes,
                           std::span<std::byte> workspace) const;
  void use(device::CudaStream& stream);

  device::CudaDevice* device_;
  Unique<HandleTraits> handle_;
  Plans forward_, backward_;
};

}  // namespace elaswave::kernels
