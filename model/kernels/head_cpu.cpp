#include <algorithm>

#include "io/base/error.h"
#include "model/kernels/float_mode.h"
#include "model/kernels/linear_cpu.h"

namespace elaswave::kernels {

namespace {

// Rows of logits per task: enough work to hand over at any vocabulary, still many tasks a chunk.
constexpr std::int64_t kRowsPerTask = 4;

// Room between the rows of logits, so that they do not start a multiple of 4 KiB apart: such rows
// share cache sets and the products over columns would evict their own operands.
std::int64_t logits_stride(std::int64_t V) {
  const std::int64_t stride = round_up(V, 16);
  return stride % 1024 == 0 ? stride + 16 : stride;
}

enum class Want { loss, gradient };

// loss_N of the chunk; with gradients the logits become the gradient of scale * sum of losses.
void token_losses(const CpuContext& context, const HeadLoss& args, const Mat& logits_NV,
                  std::int64_t first, Want want) {
  context.stream.pool().run(ceil_div(logits_NV.rows, kRowsPerTask), [&](std::int64_t task) {
    ensure_float_mode();
    const std::int64_t last = std::min((task + 1) * kRowsPerTask, logits_NV.rows);
    for (std::int64_t row = task * kRowsPerTask; row < last; ++row) {
      float* logits = logits_NV.f32() + row * logits_NV.stride;
      const auto token = static_cast<std::size_t>(first + row);
      const std::int64_t target = args.targets_N[token];
      EW_CHECK(target >= 0 && target < logits_NV.cols, "target {} of a vocabulary of {}", target,
               logits_NV.cols);
      args.loss_N[token] =
          want == Want::loss
              ? context.simd.token_loss(logits, logits_NV.cols, target)
              : context.simd.token_loss_gradient(logits, logits_NV.cols, target, args.scale);
    }
  });
}

}  // namespace

void head_loss(const CpuContext& context, const HeadLoss& args) {
  const std::int64_t N = args.x_NC.rows, V = args.w_VC.rows;
  const Want want = args.dx_NC.data == nullptr ? Want::loss : Want::gradient;
  EW_CHECK(static_cast<std::int64_t>(args.targets_N.size()) == N &&
               static_cast<std::int64_t>(args.loss_N.size()) == N,
           "{} targets and {} losses for {} tokens", args.targets_N.size(), args.loss_N.size(), N);
  const std::int64_t stride = logits_stride(V);
  float* scratch = context.workspace.shared(std::min(N, kLossChunkTokens) * stride);
  GradSink dw_VC = args.dw_VC;
  for (std::int64_t first = 0; first < N; first += kLossChunkTokens) {
    const std::int64_t tokens = std::min(kLossChunkTokens, N - first);
    const ConstMat x_NC = args.x_NC.rows_from(first, tokens);
    const Mat logits_NV = {reinterpret_cast<std::byte*>(scratch), DType::f32, tokens, V, stride};
    gemm(context, gemm_of(Product::nt, x_NC, args.w_VC), logits_NV);
    token_losses(context, args, logits_NV, first, want);
    if (want == Want::loss) continue;
    gemm(context, gemm_of(Product::nn, logits_NV, args.w_VC), args.dx_NC.rows_from(first, tokens));
    gemm_into_sink(context, gemm_of(Product::tn, logits_NV, x_NC), dw_VC);
    dw_VC.overwrite = false;
  }
}

}  // namespace elaswave::kernels
