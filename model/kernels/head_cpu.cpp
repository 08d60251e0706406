#include <algorithm>
#include <limits>

#include "io/base/error.h"
#include "model/kernels/float_mode.h"
#include "model/kernels/linear_cpu.h"

namespace elaswave::kernels {

namespace {

// Rows of logits per task: enough work to hand over at any vocabulary, still many tasks a chunk.
constexpr std::int64_t kRowsPerTask = 4;

// body(token) for all tokens of a chunk, a few a task.
template <typename Body>
void for_tokens(const CpuContext& context, std::int64_t tokens, const Body& body) {
  context.stream.pool().run(ceil_div(tokens, kRowsPerTask), [&](std::int64_t task) {
    ensure_float_mode();
    const std::int64_t last = std::min((task + 1) * kRowsPerTask, tokens);
    for (std::int64_t token = task * kRowsPerTask; token < last; ++token) body(token);
  });
}

enum class Want { loss, gradient };

// loss_N of the chunk; with gradients the logits become the gradient of scale * sum of losses.
void token_losses(const CpuContext& context, const HeadLoss& args, const Mat& logits_NV,
                  std::int64_t first, Want want) {
  for_tokens(context, logits_NV.rows, [&](std::int64_t row) {
    float* logits = logits_NV.f32() + row * logits_NV.stride;
    const auto token = static_cast<std::size_t>(first + row);
    const std::int64_t target = args.targets_N[token];
    EW_CHECK(target >= 0 && target < logits_NV.cols, "target {} of a vocabulary of {}", target,
             logits_NV.cols);
    args.loss_N[token] =
        want == Want::loss
            ? context.simd.token_loss(logits, logits_NV.cols, target)
            : context.simd.token_loss_gradient(logits, logits_NV.cols, target, args.scale);
  });
}

// Where a token's target lies among this slice's columns; -1 when another slice has it.
template <typename Args>
std::int64_t local_target(const Args& args, std::size_t token) {
  const std::int64_t target = args.targets_N[token];
  EW_CHECK(target >= 0, "target {}", target);
  const std::int64_t local = target - args.vocab_begin;
  return local >= 0 && local < args.w_VC.rows ? local : -1;
}

template <typename Args>
void check_chunk(const Args& args, std::size_t stats) {
  const std::int64_t N = args.x_NC.rows;
  EW_CHECK(N > 0 && args.vocab_begin >= 0, "a chunk of {} tokens, from row {} of the vocabulary on",
           N, args.vocab_begin);
  EW_CHECK(std::ssize(args.targets_N) == N && static_cast<std::int64_t>(stats) == N,
           "{} targets and {} statistics for {} tokens", args.targets_N.size(), stats, N);
}

}  // namespace

void head_loss(const CpuContext& context, const HeadLoss& args) {
  const std::int64_t N = args.x_NC.rows, V = args.w_VC.rows;
  const Want want = args.dx_NC.data == nullptr ? Want::loss : Want::gradient;
  EW_CHECK(std::ssize(args.targets_N) == N && std::ssize(args.loss_N) == N && args.chunk_tokens > 0,
           "{} targets and {} losses for {} tokens, {} at a time", args.targets_N.size(),
           args.loss_N.size(), N, args.chunk_tokens);
  const std::int64_t stride = logits_stride(V);
  float* scratch = context.workspace.shared(std::min(N, args.chunk_tokens) * stride);
  GradSink dw_VC = args.dw_VC;
  for (std::int64_t first = 0; first < N; first += args.chunk_tokens) {
    const std::int64_t tokens = std::min(args.chunk_tokens, N - first);
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

void head_logits(const CpuContext& context, const HeadLogits& args) {
  check_chunk(args, args.stats_N.size());
  const Mat& logits_NV = args.logits_NV;
  gemm(context, gemm_of(Product::nt, args.x_NC, args.w_VC), logits_NV);
  for_tokens(context, logits_NV.rows, [&](std::int64_t row) {
    const auto token = static_cast<std::size_t>(row);
    const float* logits = logits_NV.f32() + row * logits_NV.stride;
    const std::int64_t target = local_target(args, token);
    LogitStats stats;
    stats.sum = context.simd.token_sum(logits, logits_NV.cols, &stats.largest);
    stats.target = target >= 0 ? logits[target] : -std::numeric_limits<float>::infinity();
    args.stats_N[token] = stats;
  });
}

void head_combine(const CpuContext& context, const HeadCombine& args) {
  const std::size_t N = args.total_N.size();
  EW_CHECK(
      N > 0 && !args.stats_SN.empty() && args.stats_SN.size() % N == 0 && args.loss_N.size() == N,
      "{} statistics of slices and {} losses for {} tokens", args.stats_SN.size(),
      args.loss_N.size(), N);
  for_tokens(context, static_cast<std::int64_t>(N), [&](std::int64_t row) {
    const auto token = static_cast<std::size_t>(row);
    LogitStats total = args.stats_SN[token];
    for (std::size_t i = token + N; i < args.stats_SN.size(); i += N) {
      total.largest = std::max(total.largest, args.stats_SN[i].largest);
      total.target = std::max(total.target, args.stats_SN[i].target);
    }
    total.sum = 0;
    for (std::size_t i = token; i < args.stats_SN.size(); i += N) {
      const LogitStats& slice = args.stats_SN[i];
      total.sum += slice.sum * context.simd.exp(slice.largest - total.largest);
    }
    args.total_N[token] = total;
    args.loss_N[token] = context.simd.token_loss_of(total.sum, total.target - total.largest);
  });
}

void head_gradient(const CpuContext& context, const HeadGradient& args) {
  check_chunk(args, args.total_N.size());
  const Mat& logits_NV = args.logits_NV;
  EW_CHECK(logits_NV.rows == args.x_NC.rows && logits_NV.cols == args.w_VC.rows,
           "logits of {} x {} for {} tokens and {} rows of the vocabulary", logits_NV.rows,
           logits_NV.cols, args.x_NC.rows, args.w_VC.rows);
  for_tokens(context, logits_NV.rows, [&](std::int64_t row) {
    const auto token = static_cast<std::size_t>(row);
    const LogitStats& total = args.total_N[token];
    context.simd.token_gradient(logits_NV.f32() + row * logits_NV.stride, logits_NV.cols,
                                local_target(args, token), total.largest, total.sum, args.scale);
  });
  gemm(context, gemm_of(Product::nn, logits_NV, args.w_VC), args.dx_NC);
  gemm_into_sink(context, gemm_of(Product::tn, logits_NV, args.x_NC), args.dw_VC);
}

}  // namespace elaswave::kernels
