// Every operation the model needs from a device, as one seam. One implementation per backend
// (cpu_ops.h; cuda later).
//
// Shape letters: B samples of a micro-batch, T positions, N = B*T tokens, C hidden, D features out,
// H heads, V vocabulary. Activations and weights are row-major views of the storage type (f32; bf16
// to come); arithmetic is f32.
//
// Contracts shared by all operations
// - Loss and gradients are a function of the arguments alone: every sum is cut by shape constants,
// never by thread count.
// - Outputs are overwritten. Outputs may not alias inputs unless the comment says so.
// - A call issues work on the stream and allocates nothing once it has seen its largest shape.
// - Gradients of weights go into a GradSink, one addend per (tensor, contribution, micro-batch)
// element.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "io/base/error.h"
#include "io/base/philox.h"
#include "parallel/device/buffer.h"
#include "parallel/device/stream.h"

namespace elaswave::kernels {

using device::ConstMat;
using device::Mat;
using device::Stream;

/// Exact mode: gradients are rounded once to a multiple of 2^-40 and added as integers (README,
/// "Exact sums").
inline constexpr int kFractionBits = 40;

/// Set (never cleared) by any addend that is not finite or reaches the sink's limit. THREADS: any.
struct RangeFlag {
  std::atomic<std::uint32_t> bad{0};
};

/// Where the gradient of one tensor is summed over micro-batches: exactly one of `exact` and `fast`
/// is set. An addend out of range sets the flag and, in exact mode, adds 0; in fast mode out of
/// range means not finite.
struct GradSink {
  std::int64_t* exact = nullptr;  // sums of llrint(g * 2^kFractionBits)
  float* fast = nullptr;          // plain f32 sums (numerics.mode=fast)
  std::int64_t elems = 0;
  bool overwrite = false;  // the sums start with this addend: store instead of add
  float limit = 0;         // |g| must stay below it; fixed by the number of addends (exact mode)
  RangeFlag* flag = nullptr;
};

/// Inverted dropout: kept with probability 1 - rate and scaled by 1 / (1 - rate). An element is
/// dropped when uniform01(random_word(stream of its sample, index of the element within the
/// sample)) < rate.
struct Dropout {
  float rate = 0;
  std::span<const RandomStream> streams_B;  // one per sample; may be empty when rate is 0
};

/// x = dropout(wte[id] + wpe[position]). Element index: t * C + c.
struct EmbeddingForward {
  std::span<const std::int32_t> ids_N;
  ConstMat wte_VC, wpe_TC;  // wpe may have more rows than T
  std::int64_t T = 0;
  Dropout dropout;
  Mat x_NC;
};
/// Rows of one token id are summed in f32 in order of position, then rounded once into the sink.
struct EmbeddingBackward {
  std::span<const std::int32_t> ids_N;
  ConstMat dx_NC;
  std::int64_t T = 0;
  Dropout dropout;
  GradSink dwte_VC, dwpe_TC;
};

/// y = (x - mean) * rstd * gamma + beta over C; biased variance (Ba, Kiros, Hinton, arXiv
/// 1607.06450).
struct LayerNormForward {
  ConstMat x_NC;
  std::span<const float> gamma_C, beta_C;
  Mat y_NC;
  std::span<float> mean_N, rstd_N;
  float epsilon = 1e-5f;
};
/// dx = dresidual + gradient through the norm; dresidual may be empty (data == nullptr) and may
/// alias dx.
struct LayerNormBackward {
  ConstMat dy_NC, x_NC;
  std::span<const float> gamma_C;
  std::span<const float> mean_N, rstd_N;
  ConstMat dresidual_NC;
  Mat dx_NC;
  GradSink dgamma_C, dbeta_C;
};

/// y = x W + b, W stored [in, out] as GPT-2 publishes it; b may be empty.
struct LinearForward {
  ConstMat x_NC, w_CD;
  std::span<const float> b_D;
  Mat y_ND;
};
/// dx = dy W^T.
struct LinearBackwardInput {
  ConstMat dy_ND, w_CD;
  Mat dx_NC;
};
/// dW = x^T dy, db = column sums of dy; db_D.elems == 0 means no bias.
struct LinearBackwardWeight {
  ConstMat x_NC, dy_ND;
  GradSink dw_CD, db_D;
};

/// Causal self-attention with online softmax in blocks (Milakov and Gimelshein, arXiv 1805.02867;
/// Dao et al., arXiv 2205.14135): memory linear in T. qkv holds q, k, v side by side, heads
/// contiguous within each. Dropout acts on probabilities; element index: (h * T + query) * T + key.
struct AttentionForward {
  ConstMat qkv_N3C;
  std::int64_t T = 0, H = 0;
  Dropout dropout;
  Mat out_NC;
  std::span<float> lse_NH;  // log sum exp of scaled scores, kept for backward; [(b*H + h)*T + t]
};
struct AttentionBackward {
  ConstMat qkv_N3C, out_NC, dout_NC;
  std::span<const float> lse_NH;
  std::int64_t T = 0, H = 0;
  Dropout dropout;
  Mat dqkv_N3C;
};

/// Attention of N new positions of one sequence, for inference: the rows of k and v are first
/// copied into the cache (rows past .. past + N - 1), then each new position attends to all rows up
/// to its own. Rows beyond are not read. A position's result depends on the positions before it
/// alone, not on how they are cut into calls.
struct AttentionCached {
  ConstMat qkv_N3C;
  std::int64_t past = 0;  // positions in the cache already
  std::int64_t H = 0;
  Mat keys_TC, values_TC;  // T is the capacity, at least past + N; heads contiguous
  Mat out_NC;
};

/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel, arXiv 1606.08415, the
/// tanh form of GPT-2).
struct GeluForward {
  ConstMat x;
  Mat y;  // may alias x
};
struct GeluBackward {
  ConstMat x, dy;
  Mat dx;  // may alias dy
};

/// out = residual + dropout(branch). Element index: t * C + c. out may alias residual.
struct ResidualForward {
  ConstMat residual_NC, branch_NC;
  std::int64_t T = 0;
  Dropout dropout;
  Mat out_NC;
};
/// dbranch = dropout mask applied to dout; the residual's own gradient is dout itself. dbranch may
/// alias dout.
struct ResidualBackward {
  ConstMat dout_NC;
  std::int64_t T = 0;
  Dropout dropout;
  Mat dbranch_NC;
};

/// Head and loss in one: logits = x W^T, loss_N[i] = log sum exp(logits_i) - logits_i[target_i], in
/// nats, computed over chunks of kLossChunkTokens tokens so that no more than one chunk of f32
/// logits ever exists. With gradients wanted (dx_NC.data != nullptr) also dx and dW of the *sum* of
/// token losses times `scale`. Each chunk's dW is one addend: loss_contributions(N) of them.
struct HeadLoss {
  ConstMat x_NC, w_VC;
  std::span<const std::int32_t> targets_N;
  std::span<float> loss_N;
  float scale = 1;
  Mat dx_NC;
  GradSink dw_VC;  // overwrite applies to the first chunk
};
inline constexpr std::int64_t kLossChunkTokens = 256;
constexpr std::int64_t loss_contributions(std::int64_t N) {
  return ceil_div(N, kLossChunkTokens);
}

/// Scalars of one update, computed once and carried by the commit record.
struct AdamWScalars {
  float lr = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0;
  float clip = 1;         // gradient multiplier
  float correction1 = 1;  // 1 / (1 - beta1^t)
  float correction2 = 1;  // 1 / (1 - beta2^t)
};
/// AdamW (Loshchilov and Hutter, arXiv 1711.05101), element-wise, in place; also stores the new
/// weight rounded to the storage type in `working` (may be null). Correctly rounded operations and
/// explicit fma only, so any backend that follows adamw_formula.h gets the same bits.
struct AdamW {
  std::span<float> master, moment1, moment2;
  std::span<const float> grad;  // mean gradient, before clipping
  AdamWScalars scalars;
  std::byte* working = nullptr;
  DType working_dtype = DType::f32;
};

/// mean[i] = float(double(sums[i]) * scale), scale = 2^-kFractionBits / G in exact mode and 1 / G
/// in fast mode.
struct MeanGradient {
  std::span<const std::int64_t> exact_sums;  // or
  std::span<const float> fast_sums;
  double scale = 1;
  std::span<float> mean;
};

class Ops {
 public:
  virtual ~Ops() = default;

  virtual void embedding_forward(Stream&, const EmbeddingForward&) = 0;
  virtual void embedding_backward(Stream&, const EmbeddingBackward&) = 0;
  virtual void layernorm_forward(Stream&, const LayerNormForward&) = 0;
  virtual void layernorm_backward(Stream&, const LayerNormBackward&) = 0;
  virtual void linear_forward(Stream&, const LinearForward&) = 0;
  virtual void linear_backward_input(Stream&, const LinearBackwardInput&) = 0;
  virtual void linear_backward_weight(Stream&, const LinearBackwardWeight&) = 0;
  virtual void attention_forward(Stream&, const AttentionForward&) = 0;
  virtual void attention_backward(Stream&, const AttentionBackward&) = 0;
  virtual void attention_cached(Stream&, const AttentionCached&) = 0;
  virtual void gelu_forward(Stream&, const GeluForward&) = 0;
  virtual void gelu_backward(Stream&, const GeluBackward&) = 0;
  virtual void residual_forward(Stream&, const ResidualForward&) = 0;
  virtual void residual_backward(Stream&, const ResidualBackward&) = 0;
  virtual void head_loss(Stream&, const HeadLoss&) = 0;

  // Optimizer state comes in blocks of at most 64 KiB: these take many at once, one task a block.
  virtual void adamw(Stream&, std::span<const AdamW> blocks) = 0;
  virtual void mean_gradient(Stream&, std::span<const MeanGradient> blocks) = 0;

  /// Sum of squares in double, in an order fixed by the length alone. out[i] belongs to ranges[i].
  virtual void sum_squares(Stream&, std::span<const std::span<const float>> ranges,
                           std::span<double> out) = 0;

  /// out[i] = sum over the 32-bit words w_j of ranges[i] of mix64(mix64(keys[i] + j * kGolden64) ^
  /// w_j) mod 2^64. mix64 is a bijection, so flipping any single bit changes the sum.
  virtual void digest(Stream&, std::span<const std::span<const float>> ranges,
                      std::span<const std::uint64_t> keys, std::span<std::uint64_t> out) = 0;

  /// What its bits depend on: backend, instruction set, library versions.
  virtual std::string numeric_class() const = 0;
};

}  // namespace elaswave::kernels
