#include "model/kernels/cuda_attention.h"

#include <bit>
#include <initializer_list>
#include <optional>
#include <span>
#include <utility>

#include "model/kernels/attention_cudnn.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::kernels::cuda {

namespace {

constexpr std::uintptr_t kAlignment = 16;  // of every matrix (attention_cudnn.h)

bool aligned(std::initializer_list<const void*> addresses) {
  for (const void* address : addresses)
    if (std::bit_cast<std::uintptr_t>(address) % kAlignment != 0) return false;
  return true;
}

class CudnnFusedAttention final : public FusedAttention {
 public:
  explicit CudnnFusedAttention(std::unique_ptr<CudnnAttention> library)
      : library_(std::move(library)) {}

  bool forward(const CudaContext& context, const AttentionForward& args) override {
    if (!aligned({args.qkv_N3C.data, args.out_NC.data, args.lse_NH.data()})) return false;
    const auto workspace = workspace_of(context, args);
    if (workspace) library_->forward(context.stream, *workspace, args);
    return workspace.has_value();
  }
  bool backward(const CudaContext& context, const AttentionBackward& args) override {
    if (!aligned({args.qkv_N3C.data, args.out_NC.data, args.dout_NC.data, args.dqkv_N3C.data,
                  args.lse_NH.data()}))
      return false;
    const auto workspace = workspace_of(context, args);
    if (workspace) library_->backward(context.stream, *workspace, args);
    return workspace.has_value();
  }
  std::string numeric_class() const override { return library_->numeric_class(); }

 private:
  // Nothing where the library has no plan: then the plain kernels work.
  template <typename Args>
  std::optional<std::span<std::byte>> workspace_of(const CudaContext& context, const Args& args) {
    if (!CudnnAttention::supported(args)) return std::nullopt;
    const Result<std::int64_t> bytes = library_->prepare(args);
    // A refusal is the same on all ranks; any other error is this one's, and it must not go on
    // with other bits.
    if (!bytes && bytes.error().code != Code::unavailable)
      throw device::DeviceLost(bytes.error().text());
    if (!bytes) return std::nullopt;
    return std::span(context.scratch.device<std::byte>(ScratchUse::attention, *bytes),
                     static_cast<std::size_t>(*bytes));
  }

  std::unique_ptr<CudnnAttention> library_;
};

}  // namespace

Result<std::unique_ptr<FusedAttention>> make_cudnn_attention(device::CudaDevice& device) {
  EW_ASSIGN(std::unique_ptr<CudnnAttention> library, CudnnAttention::create(device));
  return std::make_unique<CudnnFusedAttention>(std::move(library));
}

}  // namespace elaswave::kernels::cuda
