// Every operation the model needs from a device, as one seam: cpu_ops.h, cuda_ops.h.
//
// Shape letters: B samples of a micro-batch, T positions, N = B*T tokens, C hidden, D features out,
// H heads, V vocabulary. Activations and weights are row-major views of one storage type (f32 or
// bf16), unless a comment says so; arithmetic is f32, and what is stored is rounded once. The
// result of a product may also be f32: the term of a sum over slices, which is rounded when it is
// whole.
//
// Contracts shared by all operations
// - Loss and gradients are a function of the arguments alone: every sum is cut by shape constants,
// never by thread count.
// - Outputs are overwritten. Outputs may not alias inputs unless the comment says so.
// - A call issues work on the stream and allocates nothing once it has seen its largest shape.
// - Matrices, spans, sums, ids and targets are memory of the stream's device. Memory of the host,
// read before the call returns, are the structs themselves, lists of blocks and ranges, keys, and
// the streams of a Dropout. What sum_squares() and digest() write is of the host too and may be
// read when the stream has been synchronised. A RangeFlag lies in Space::host.
// - Gradients of weights go into a GradSink, one addend per (tensor, contribution, micro-batch)
// element.
//
// Slices (tensor parallelism). A slice holds some columns of an activation (heads, D), some rows of
// the vocabulary, or a contiguous range of the N rows of a micro-batch that may begin and end
// inside samples. Arguments named *_begin place it in the whole, the shape letter then counts the
// slice's own share, and their default is the beginning: a whole is a slice. Masks depend on the
// place in the whole alone, so slices put together are the whole, bit by bit, wherever nothing is
// summed over what was sliced.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "io/base/error.h"
#include "io/base/philox.h"
#include "model/kernels/memory_of_calls.h"
#include "parallel/device/arithmetic.h"
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
  // One per sample of the micro-batch, whatever rows an operation works on; may be empty when rate
  // is 0.
  std::span<const RandomStream> streams_B;
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

/// Row i of out is the row of wte for ids[i] when the slice of the vocabulary has it (vocab_begin
/// <= id < vocab_begin + V), else zeros of negative sign, which change no number they are added to:
/// the sum over slices, in any order, is the looked-up row bit by bit. REQUIRES: ids within the
/// whole vocabulary; an id that no slice has gives zeros.
struct EmbeddingLookup {
  std::span<const std::int32_t> ids_N;
  ConstMat wte_VC;  // V rows from vocab_begin on
  std::int64_t vocab_begin = 0;
  Mat out_NC;  // of the type of wte, or f32
};
/// The sums of EmbeddingBackward for the ids that the slice has. dx is what
/// EmbeddingPositionsBackward left, of all N rows.
struct EmbeddingLookupBackward {
  std::span<const std::int32_t> ids_N;
  ConstMat dx_NC;
  std::int64_t vocab_begin = 0;
  GradSink dwte_VC;
};

/// out = dropout(x + wpe[position]) for rows [row_begin, row_begin + N) of the micro-batch: row r
/// is position r % T of sample r / T. After EmbeddingLookup of the whole vocabulary this is
/// EmbeddingForward, bit by bit.
struct EmbeddingPositions {
  ConstMat x_NC, wpe_TC;  // wpe may have more rows than T
  std::int64_t T = 0;
  std::int64_t row_begin = 0;
  Dropout dropout;
  Mat out_NC;  // may alias x
};
/// masked = dropout mask applied to dx. dwpe: the rows of one position among these are summed in
/// f32 in order, then rounded once into the sink; a position without a row has no addend. masked
/// for EmbeddingLookupBackward and this are EmbeddingBackward, bit by bit, where one slice has all
/// rows: with bf16 storage and dropout, EmbeddingBackward too sums masked gradients rounded to
/// bf16.
struct EmbeddingPositionsBackward {
  ConstMat dx_NC;
  std::int64_t T = 0;
  std::int64_t row_begin = 0;
  Dropout dropout;
  GradSink dwpe_TC;
  Mat masked_NC;  // may alias dx
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
/// dx = dy W^T, or with gelu_x (data != nullptr) gelu'(gelu_x) * (dy W^T), the gradient of what the
/// activation read: as GeluBackward behind the product, or in one with fewer roundings.
struct LinearBackwardInput {
  ConstMat dy_ND, w_CD;
  Mat dx_NC;
  ConstMat gelu_x{};  // of dx's shape; may not alias it
};
/// dW = x^T dy, db = column sums of dy; db_D.elems == 0 means no bias.
struct LinearBackwardWeight {
  ConstMat x_NC, dy_ND;
  GradSink dw_CD, db_D;
};

/// Causal self-attention with online softmax in blocks (Milakov and Gimelshein, arXiv 1805.02867;
/// Dao et al., arXiv 2205.14135): memory linear in T. qkv holds q, k, v side by side, heads
/// contiguous within each. Of a model's heads, these are [head_begin, head_begin + H), and C is H
/// times the head dimension. Dropout acts on probabilities; element index: ((head_begin + h) * T +
/// query) * T + key.
struct AttentionForward {
  ConstMat qkv_N3C;
  std::int64_t T = 0, H = 0;
  Dropout dropout;
  Mat out_NC;
  std::span<float> lse_NH;  // log sum exp of scaled scores, kept for backward; [(b*H + h)*T + t]
  std::int64_t head_begin = 0;
};
struct AttentionBackward {
  ConstMat qkv_N3C, out_NC, dout_NC;
  std::span<const float> lse_NH;
  std::int64_t T = 0, H = 0;
  Dropout dropout;
  Mat dqkv_N3C;
  std::int64_t head_begin = 0;
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

/// out = residual + dropout(branch) for rows [row_begin, row_begin + N) of the micro-batch. Row r
/// is position t = r % T of sample r / T; element index: t * C + c. out may alias residual.
struct ResidualForward {
  ConstMat residual_NC, branch_NC;
  std::int64_t T = 0;
  Dropout dropout;
  Mat out_NC;
  std::int64_t row_begin = 0;
};
/// dbranch = dropout mask applied to dout; the residual's own gradient is dout itself. dbranch may
/// alias dout.
struct ResidualBackward {
  ConstMat dout_NC;
  std::int64_t T = 0;
  Dropout dropout;
  Mat dbranch_NC;
  std::int64_t row_begin = 0;
};

/// Head and loss in one: logits = x W^T, loss_N[i] = log sum exp(logits_i) - logits_i[target_i], in
/// nats, over chunks of tokens: no more than one chunk of f32 logits ever exists. With gradients
/// wanted (dx_NC.data != nullptr) also dx and dW of the *sum* of token losses times `scale`. Each
/// chunk's dW is one addend.
struct HeadLoss {
  ConstMat x_NC, w_VC;
  std::span<const std::int32_t> targets_N;
  std::span<float> loss_N;
  float scale = 1;
  Mat dx_NC;
  GradSink dw_VC;  // overwrite applies to the first chunk
  std::int64_t chunk_tokens = 0;
};
/// Of a run's chunks, by backend, as its bits depend on them (README, "A chunk of the loss").
inline constexpr std::int64_t kCpuLossChunkTokens = 256, kCudaLossChunkTokens = 8192;
constexpr std::int64_t loss_contributions(std::int64_t N, std::int64_t chunk_tokens) {
  return ceil_div(N, chunk_tokens);
}

/// What the logits of one token within a slice of the vocabulary, or within all of it, come to:
/// enough for its loss and, with the logits, for its gradient. Plain data, to be gathered over
/// slices as bytes.
struct LogitStats {
  float largest = 0;
  float sum = 0;     // of exp(logit - largest)
  float target = 0;  // the target's logit; -infinity where another slice has it
};

/// The head on a slice of the vocabulary, one chunk of tokens at a time: HeadLogits here, the
/// statistics gathered over slices, HeadCombine everywhere, then HeadGradient here with the same
/// logits. On all of the vocabulary, with the same chunks, the three are HeadLoss, bit by bit.
/// logits = x W^T. The caller keeps them until HeadGradient; rows logits_stride(V) apart are
/// fastest.
struct HeadLogits {
  ConstMat x_NC, w_VC;                      // V rows of the vocabulary from vocab_begin on
  std::span<const std::int32_t> targets_N;  // in the whole vocabulary
  std::int64_t vocab_begin = 0;
  Mat logits_NV;  // f32
  std::span<LogitStats> stats_N;
};
/// Statistics of slices of the vocabulary, which follow one another in slice order, into those of
/// all of it: largest and target are the largest of them, sum = sum_0 e^(largest_0 - largest) +
/// sum_1 e^(largest_1 - largest) + ... in slice order. loss = log(sum) - (target - largest), NaN
/// when a logit is NaN or +infinity, or all of a slice are -infinity. REQUIRES: each target in
/// exactly one slice; loss is +infinity where there was none.
struct HeadCombine {
  std::span<const LogitStats> stats_SN;  // [slice * N + token]
  std::span<LogitStats> total_N;         // its size is N; may not alias stats
  std::span<float> loss_N;
};
/// The gradient of scale * (sum of token losses): dlogits = scale * (exp(logit - largest) / sum -
/// [token's target]) with the statistics of all the vocabulary; dx = dlogits W is this slice's term
/// of the sum over slices, dW = dlogits^T x is one addend.
struct HeadGradient {
  Mat logits_NV;  // as HeadLogits left them; becomes their gradient
  ConstMat x_NC, w_VC;
  std::span<const std::int32_t> targets_N;
  std::int64_t vocab_begin = 0;
  std::span<const LogitStats> total_N;
  float scale = 1;
  Mat dx_NC;
  GradSink dw_VC;  // overwrite: for the first chunk only
};
/// Room between rows of V logits (in elements) that keeps them from starting a multiple of 4 KiB
/// apart: such rows share cache sets, and products over columns would evict their own operands.
constexpr std::int64_t logits_stride(std::int64_t V) {
  const std::int64_t stride = round_up(V, 16);
  return stride % 1024 == 0 ? stride + 16 : stride;
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

/// stored[i] = master[i] rounded once to the storage type: working weights from master weights.
struct StoreWeights {
  std::span<const float> master;
  std::byte* stored = nullptr;
  DType dtype = DType::f32;
};

class Ops : public MemoryOfCalls {
 public:
  virtual void embedding_forward(Stream&, const EmbeddingForward&) = 0;
  virtual void embedding_backward(Stream&, const EmbeddingBackward&) = 0;
  virtual void embedding_lookup(Stream&, const EmbeddingLookup&) = 0;
  virtual void embedding_lookup_backward(Stream&, const EmbeddingLookupBackward&) = 0;
  virtual void embedding_positions(Stream&, const EmbeddingPositions&) = 0;
  virtual void embedding_positions_backward(Stream&, const EmbeddingPositionsBackward&) = 0;
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
  virtual void head_logits(Stream&, const HeadLogits&) = 0;
  virtual void head_combine(Stream&, const HeadCombine&) = 0;
  virtual void head_gradient(Stream&, const HeadGradient&) = 0;

  // Optimizer state comes in blocks of at most 64 KiB: these take many at once, one task a block.
  virtual void adamw(Stream&, std::span<const AdamW> blocks) = 0;
  virtual void mean_gradient(Stream&, std::span<const MeanGradient> blocks) = 0;
  virtual void store_weights(Stream&, std::span<const StoreWeights> blocks) = 0;

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

/// A rank's device, and its host, which keeps and updates state for others. On a CPU they are one.
struct Machine {
  Ops& ops;
  Stream& stream;
  device::Arithmetic& arithmetic;  // on `stream`
  Ops& host_ops;
  device::CpuStream& host_stream;
};
inline Machine host_machine(Ops& ops, device::CpuStream& stream) {
  return {ops, stream, device::host_arithmetic(), ops, stream};
}

}  // namespace elaswave::kernels
