#include "tests/support/blind_ops.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "io/base/error.h"
#include "tests/support/blind_device.h"

namespace elaswave::testing {
namespace {

using namespace kernels;
using device::Space;

// One call: checks what it takes.
class Call {
 public:
  explicit Call(BlindStream& stream)
      : stream_(stream), device_(stream.device()), opened_(device_) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  device::CpuStream& cpu() { return stream_.cpu(); }

  template <typename... Args>
  void take(Args&... args) {
    (take_one(args), ...);
  }

 private:
  template <typename T>
  void take_one(std::span<T>& span) {
    on_device(span.data(), static_cast<std::int64_t>(span.size_bytes()));
  }
  void take_one(const ConstMat& view) {
    if (view.data == nullptr || view.elems() == 0) return;
    on_device(view.data, ((view.rows - 1) * view.stride + view.cols) * size_bytes(view.dtype));
  }
  void take_one(const GradSink& sink) {
    if (sink.elems == 0) return;
    on_device(sink.exact, sink.exact == nullptr ? 0 : sink.elems * 8);
    on_device(sink.fast, sink.fast == nullptr ? 0 : sink.elems * 4);
    EW_CHECK(device_.holds(Space::host, sink.flag, sizeof(RangeFlag)),
             "a RangeFlag that is not in Space::host");
  }
  void take_one(const Dropout& dropout) {
    EW_CHECK(!device_.holds(Space::device, dropout.streams_B.data(), 0),
             "the streams of a Dropout are in device memory");
  }

  void on_device(const void* memory, std::int64_t bytes) {
    EW_CHECK(bytes == 0 || device_.holds(Space::device, memory, bytes),
             "an argument of {} bytes that is not in device memory", bytes);
  }

  BlindStream& stream_;
  BlindDevice& device_;
  BlindDevice::Opened opened_;
};

class BlindOps final : public Ops {
 public:
  explicit BlindOps(std::unique_ptr<Ops> cpu) : cpu_(std::move(cpu)) {}

  void embedding_forward(Stream& stream, const EmbeddingForward& args) override {
    run(stream, &Ops::embedding_forward, args, [](Call& call, EmbeddingForward& a) {
      call.take(a.ids_N, a.wte_VC, a.wpe_TC, a.dropout, a.x_NC);
    });
  }
  void embedding_backward(Stream& stream, const EmbeddingBackward& args) override {
    run(stream, &Ops::embedding_backward, args, [](Call& call, EmbeddingBackward& a) {
      call.take(a.ids_N, a.dx_NC, a.dropout, a.dwte_VC, a.dwpe_TC);
    });
  }
  void embedding_lookup(Stream& stream, const EmbeddingLookup& args) override {
    run(stream, &Ops::embedding_lookup, args,
        [](Call& call, EmbeddingLookup& a) { call.take(a.ids_N, a.wte_VC, a.out_NC); });
  }
  void embedding_lookup_backward(Stream& stream, const EmbeddingLookupBackward& args) override {
    run(stream, &Ops::embedding_lookup_backward, args,
        [](Call& call, EmbeddingLookupBackward& a) { call.take(a.ids_N, a.dx_NC, a.dwte_VC); });
  }
  void embedding_positions(Stream& stream, const EmbeddingPositions& args) override {
    run(stream, &Ops::embedding_positions, args, [](Call& call, EmbeddingPositions& a) {
      call.take(a.x_NC, a.wpe_TC, a.dropout, a.out_NC);
    });
  }
  void embedding_positions_backward(Stream& stream,
                                    const EmbeddingPositionsBackward& args) override {
    run(stream, &Ops::embedding_positions_backward, args,
        [](Call& call, EmbeddingPositionsBackward& a) {
          call.take(a.dx_NC, a.dropout, a.dwpe_TC, a.masked_NC);
        });
  }
  void layernorm_forward(Stream& stream, const LayerNormForward& args) override {
    run(stream, &Ops::layernorm_forward, args, [](Call& call, LayerNormForward& a) {
      call.take(a.x_NC, a.gamma_C, a.beta_C, a.y_NC, a.mean_N, a.rstd_N);
    });
  }
  void layernorm_backward(Stream& stream, const LayerNormBackward& args) override {
    run(stream, &Ops::layernorm_backward, args, [](Call& call, LayerNormBackward& a) {
      call.take(a.dy_NC, a.x_NC, a.gamma_C, a.mean_N, a.rstd_N, a.dresidual_NC, a.dx_NC, a.dgamma_C,
                a.dbeta_C);
    });
  }
  void linear_forward(Stream& stream, const LinearForward& args) override {
    run(stream, &Ops::linear_forward, args,
        [](Call& call, LinearForward& a) { call.take(a.x_NC, a.w_CD, a.b_D, a.y_ND); });
  }
  void linear_backward_input(Stream& stream, const LinearBackwardInput& args) override {
    run(stream, &Ops::linear_backward_input, args,
        [](Call& call, LinearBackwardInput& a) { call.take(a.dy_ND, a.w_CD, a.dx_NC, a.gelu_x); });
  }
  void linear_backward_weight(Stream& stream, const LinearBackwardWeight& args) override {
    run(stream, &Ops::linear_backward_weight, args,
        [](Call& call, LinearBackwardWeight& a) { call.take(a.x_NC, a.dy_ND, a.dw_CD, a.db_D); });
  }
  void attention_forward(Stream& stream, const AttentionForward& args) override {
    run(stream, &Ops::attention_forward, args, [](Call& call, AttentionForward& a) {
      call.take(a.qkv_N3C, a.dropout, a.out_NC, a.lse_NH);
    });
  }
  void attention_backward(Stream& stream, const AttentionBackward& args) override {
    run(stream, &Ops::attention_backward, args, [](Call& call, AttentionBackward& a) {
      call.take(a.qkv_N3C, a.out_NC, a.dout_NC, a.lse_NH, a.dropout, a.dqkv_N3C);
    });
  }
  void attention_cached(Stream& stream, const AttentionCached& args) override {
    run(stream, &Ops::attention_cached, args, [](Call& call, AttentionCached& a) {
      call.take(a.qkv_N3C, a.keys_TC, a.values_TC, a.out_NC);
    });
  }
  void gelu_forward(Stream& stream, const GeluForward& args) override {
    run(stream, &Ops::gelu_forward, args, [](Call& call, GeluForward& a) { call.take(a.x, a.y); });
  }
  void gelu_backward(Stream& stream, const GeluBackward& args) override {
    run(stream, &Ops::gelu_backward, args,
        [](Call& call, GeluBackward& a) { call.take(a.x, a.dy, a.dx); });
  }
  void residual_forward(Stream& stream, const ResidualForward& args) override {
    run(stream, &Ops::residual_forward, args, [](Call& call, ResidualForward& a) {
      call.take(a.residual_NC, a.branch_NC, a.dropout, a.out_NC);
    });
  }
  void residual_backward(Stream& stream, const ResidualBackward& args) override {
    run(stream, &Ops::residual_backward, args,
        [](Call& call, ResidualBackward& a) { call.take(a.dout_NC, a.dropout, a.dbranch_NC); });
  }
  void head_loss(Stream& stream, const HeadLoss& args) override {
    run(stream, &Ops::head_loss, args, [](Call& call, HeadLoss& a) {
      call.take(a.x_NC, a.w_VC, a.targets_N, a.loss_N, a.dx_NC, a.dw_VC);
    });
  }
  void head_logits(Stream& stream, const HeadLogits& args) override {
    run(stream, &Ops::head_logits, args, [](Call& call, HeadLogits& a) {
      call.take(a.x_NC, a.w_VC, a.targets_N, a.logits_NV, a.stats_N);
    });
  }
  void head_combine(Stream& stream, const HeadCombine& args) override {
    run(stream, &Ops::head_combine, args,
        [](Call& call, HeadCombine& a) { call.take(a.stats_SN, a.total_N, a.loss_N); });
  }
  void head_gradient(Stream& stream, const HeadGradient& args) override {
    run(stream, &Ops::head_gradient, args, [](Call& call, HeadGradient& a) {
      call.take(a.logits_NV, a.x_NC, a.w_VC, a.targets_N, a.total_N, a.dx_NC, a.dw_VC);
    });
  }
  void adamw(Stream& stream, std::span<const AdamW> blocks) override {
    Call call(blind(stream));
    for (AdamW block : blocks) {
      std::span<std::byte> working;
      if (block.working != nullptr)
        working = {block.working,
                   block.master.size() * static_cast<std::size_t>(size_bytes(block.working_dtype))};
      call.take(block.master, block.moment1, block.moment2, block.grad, working);
    }
    cpu_->adamw(call.cpu(), blocks);
  }
  void mean_gradient(Stream& stream, std::span<const MeanGradient> blocks) override {
    Call call(blind(stream));
    for (MeanGradient block : blocks) call.take(block.exact_sums, block.fast_sums, block.mean);
    cpu_->mean_gradient(call.cpu(), blocks);
  }
  void store_weights(Stream& stream, std::span<const StoreWeights> blocks) override {
    Call call(blind(stream));
    for (StoreWeights block : blocks) {
      call.take(block.master);
      std::span<std::byte> stored(
          block.stored, block.master.size() * static_cast<std::size_t>(size_bytes(block.dtype)));
      call.take(stored);
    }
    cpu_->store_weights(call.cpu(), blocks);
  }
  void sum_squares(Stream& stream, std::span<const std::span<const float>> ranges,
                   std::span<double> out) override {
    Call call(blind(stream));
    for (std::span<const float> range : ranges) call.take(range);
    std::vector<double> sums(out.size());
    cpu_->sum_squares(call.cpu(), ranges, sums);
    deliver_late(blind(stream), std::move(sums), out);
  }
  void digest(Stream& stream, std::span<const std::span<const float>> ranges,
              std::span<const std::uint64_t> keys, std::span<std::uint64_t> out) override {
    Call call(blind(stream));
    for (std::span<const float> range : ranges) call.take(range);
    std::vector<std::uint64_t> digests(out.size());
    cpu_->digest(call.cpu(), ranges, keys, digests);
    deliver_late(blind(stream), std::move(digests), out);
  }
  std::string numeric_class() const override { return cpu_->numeric_class() + " behind glass"; }

 private:
  static BlindStream& blind(Stream& stream) {
    auto* blind = dynamic_cast<BlindStream*>(&stream);
    EW_CHECK(blind != nullptr, "operations behind glass were given another stream");
    return *blind;
  }
  template <typename Args, typename Take>
  void run(Stream& stream, void (Ops::*operation)(Stream&, const Args&), Args args,
           const Take& take) {
    Call call(blind(stream));
    take(call, args);
    (*cpu_.*operation)(call.cpu(), args);
  }
  template <typename T>
  static void deliver_late(BlindStream& stream, std::vector<T> values, std::span<T> out) {
    std::fill(out.begin(), out.end(), T(-1));  // whoever reads too early finds this
    stream.at_synchronize([values = std::move(values), out] {
      std::copy(values.begin(), values.end(), out.begin());
    });
  }

  std::unique_ptr<Ops> cpu_;
};

}  // namespace

std::unique_ptr<Ops> make_blind_ops(std::unique_ptr<Ops> cpu) {
  return std::make_unique<BlindOps>(std::move(cpu));
}

}  // namespace elaswave::testing
