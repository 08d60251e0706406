#include "model/kernels/cuda_ops.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "model/kernels/cuda_kernels.h"
#include "model/kernels/cuda_scratch.h"
#include "model/kernels/gemm_cuda.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::kernels {

namespace {

using cuda::CudaContext;

class CudaOps final : public Ops {
 public:
  CudaOps(device::CudaDevice& device, std::shared_ptr<cuda::Gemm> gemm,
          std::unique_ptr<cuda::FusedAttention> attention)
      : device_(device), gemm_(std::move(gemm)), attention_(std::move(attention)) {}

  void embedding_forward(Stream& stream, const EmbeddingForward& args) override {
    cuda::embedding_forward(context(stream), args);
  }
  void embedding_backward(Stream& stream, const EmbeddingBackward& args) override {
    cuda::embedding_backward(context(stream), args);
  }
  void embedding_lookup(Stream& stream, const EmbeddingLookup& args) override {
    cuda::embedding_lookup(context(stream), args);
  }
  void embedding_lookup_backward(Stream& stream, const EmbeddingLookupBackward& args) override {
    cuda::embedding_lookup_backward(context(stream), args);
  }
  void embedding_positions(Stream& stream, const EmbeddingPositions& args) override {
    cuda::embedding_positions(context(stream), args);
  }
  void embedding_positions_backward(Stream& stream,
                                    const EmbeddingPositionsBackward& args) override {
    cuda::embedding_positions_backward(context(stream), args);
  }
  void layernorm_forward(Stream& stream, const LayerNormForward& args) override {
    cuda::layernorm_forward(context(stream), args);
  }
  void layernorm_backward(Stream& stream, const LayerNormBackward& args) override {
    cuda::layernorm_backward(context(stream), args);
  }
  void linear_forward(Stream& stream, const LinearForward& args) override {
    cuda::linear_forward(context(stream), *gemm_, args);
  }
  void linear_backward_input(Stream& stream, const LinearBackwardInput& args) override {
    cuda::linear_backward_input(context(stream), *gemm_, args);
  }
  void linear_backward_weight(Stream& stream, const LinearBackwardWeight& args) override {
    cuda::linear_backward_weight(context(stream), *gemm_, args);
  }
  void attention_forward(Stream& stream, const AttentionForward& args) override {
    if (attention_ == nullptr || !attention_->forward(context(stream), args))
      cuda::attention_forward(context(stream), args);
  }
  void attention_backward(Stream& stream, const AttentionBackward& args) override {
    if (attention_ == nullptr || !attention_->backward(context(stream), args))
      cuda::attention_backward(context(stream), args);
  }
  void attention_cached(Stream& stream, const AttentionCached& args) override {
    cuda::attention_cached(context(stream), args);
  }
  void gelu_forward(Stream& stream, const GeluForward& args) override {
    cuda::gelu_forward(context(stream), args);
  }
  void gelu_backward(Stream& stream, const GeluBackward& args) override {
    cuda::gelu_backward(context(stream), args);
  }
  void residual_forward(Stream& stream, const ResidualForward& args) override {
    cuda::residual_forward(context(stream), args);
  }
  void residual_backward(Stream& stream, const ResidualBackward& args) override {
    cuda::residual_backward(context(stream), args);
  }
  void head_loss(Stream& stream, const HeadLoss& args) override {
    cuda::head_loss(context(stream), *gemm_, args);
  }
  void head_logits(Stream& stream, const HeadLogits& args) override {
    cuda::head_logits(context(stream), *gemm_, args);
  }
  void head_combine(Stream& stream, const HeadCombine& args) override {
    cuda::head_combine(context(stream), args);
  }
  void head_gradient(Stream& stream, const HeadGradient& args) override {
    cuda::head_gradient(context(stream), *gemm_, args);
  }
  void adamw(Stream& stream, std::span<const AdamW> args) override {
    cuda::adamw(context(stream), args);
  }
  void mean_gradient(Stream& stream, std::span<const MeanGradient> args) override {
    cuda::mean_gradient(context(stream), args);
  }
  void store_weights(Stream& stream, std::span<const StoreWeights> args) override {
    cuda::store_weights(context(stream), args);
  }
  void sum_squares(Stream& stream, std::span<const std::span<const float>> ranges,
                   std::span<double> out) override {
    cuda::sum_squares(context(stream), ranges, out);
  }
  void digest(Stream& stream, std::span<const std::span<const float>> ranges,
              std::span<const std::uint64_t> keys, std::span<std::uint64_t> out) override {
    cuda::digest(context(stream), ranges, keys, out);
  }

  void release_memory(Stream& stream) override { context(stream).scratch.release(); }
  void reserve_lists(Stream& stream, std::span<const std::int64_t> block_elems) override {
    cuda::reserve_lists(context(stream), block_elems);
  }
  KeptMemory kept_memory(Stream& stream) override { return context(stream).scratch.kept(); }

  // The device's name stands for its number of multiprocessors, by which libraries cut their work.
  // Hash: of the algorithms of products, chosen by us or by the library.
  std::string numeric_class() const override {
    return fmt::format(
        "cuda/sm_90/{}/cublasLt {}/{}/table {:016x}", device_.name(), gemm_->library_version(),
        attention_ == nullptr ? "plain attention" : attention_->numeric_class(), gemm_->hash());
  }

 private:
  CudaContext context(Stream& stream) {
    auto* cuda_stream = dynamic_cast<device::CudaStream*>(&stream);
    EW_CHECK(cuda_stream != nullptr && &cuda_stream->device() == &device_,
             "the CUDA backend was given a stream of another device");
    // Work of two streams overlaps, so each has scratch of its own.
    const auto [found, added] = scratch_.try_emplace(cuda_stream, stream);
    return {*cuda_stream, found->second};
  }

  device::CudaDevice& device_;
  std::shared_ptr<cuda::Gemm> gemm_;
  std::unique_ptr<cuda::FusedAttention> attention_;
  std::map<device::CudaStream*, cuda::Scratch> scratch_;
};

}  // namespace

Result<std::unique_ptr<Ops>> make_cuda_ops(device::CudaDevice& device, CudaOpsOptions options) {
  if (options.gemm == nullptr) {
    EW_ASSIGN(options.gemm, cuda::Gemm::create(device, options.gemm_rows));
  }
  return std::make_unique<CudaOps>(device, std::move(options.gemm), std::move(options.attention));
}

}  // namespace elaswave::kernels
