// bf16 storage on the CPU: its operations compute in f32. What lies in bf16 is copied to f32 for
// the length of a call, which is exact, and what a call stores there is rounded after it, once,
// ties to even (io/base/bf16.h). Calls on f32 alone pass through.
//
// Tables of tokens are the exception: a call reads few of their rows, so the operations themselves
// widen those (embedding_cpu.cpp). THREADS: one caller per stream.
#pragma once

#include <array>
#include <tuple>

#include "model/kernels/cpu_kernels.h"

namespace elaswave::kernels {

/// The operands of an operation that the storage type is about: what it reads as ConstMat, what it
/// writes as Mat.
inline auto operands(EmbeddingForward& a) {
  return std::tie(a.wpe_TC, a.x_NC);
}
inline auto operands(EmbeddingBackward& a) {
  return std::tie(a.dx_NC);
}
inline auto operands(EmbeddingLookup& a) {
  return std::tie(a.out_NC);
}
inline auto operands(EmbeddingLookupBackward& a) {
  return std::tie(a.dx_NC);
}
inline auto operands(EmbeddingPositions& a) {
  return std::tie(a.x_NC, a.wpe_TC, a.out_NC);
}
inline auto operands(EmbeddingPositionsBackward& a) {
  return std::tie(a.dx_NC, a.masked_NC);
}
inline auto operands(LayerNormForward& a) {
  return std::tie(a.x_NC, a.y_NC);
}
inline auto operands(LayerNormBackward& a) {
  return std::tie(a.dy_NC, a.x_NC, a.dresidual_NC, a.dx_NC);
}
inline auto operands(LinearForward& a) {
  return std::tie(a.x_NC, a.w_CD, a.y_ND);
}
inline auto operands(LinearBackwardInput& a) {
  return std::tie(a.dy_ND, a.w_CD, a.dx_NC, a.gelu_x);
}
inline auto operands(LinearBackwardWeight& a) {
  return std::tie(a.x_NC, a.dy_ND);
}
inline auto operands(AttentionForward& a) {
  return std::tie(a.qkv_N3C, a.out_NC);
}
inline auto operands(AttentionBackward& a) {
  return std::tie(a.qkv_N3C, a.out_NC, a.dout_NC, a.dqkv_N3C);
}
inline auto operands(AttentionCached& a) {
  return std::tie(a.qkv_N3C, a.keys_TC, a.values_TC, a.out_NC);
}
inline auto operands(GeluForward& a) {
  return std::tie(a.x, a.y);
}
inline auto operands(GeluBackward& a) {
  return std::tie(a.x, a.dy, a.dx);
}
inline auto operands(ResidualForward& a) {
  return std::tie(a.residual_NC, a.branch_NC, a.out_NC);
}
inline auto operands(ResidualBackward& a) {
  return std::tie(a.dout_NC, a.dbranch_NC);
}
inline auto operands(HeadLoss& a) {
  return std::tie(a.x_NC, a.w_VC, a.dx_NC);
}
inline auto operands(HeadLogits& a) {
  return std::tie(a.x_NC, a.w_VC);
}
inline auto operands(HeadGradient& a) {
  return std::tie(a.x_NC, a.w_VC, a.dx_NC);
}

/// Does the operation leave parts of what it writes as they were?
template <typename Args>
inline constexpr bool kKeepsParts = false;
template <>
inline constexpr bool kKeepsParts<AttentionCached> = true;  // the caches

/// The operands of one call that are stored in bf16, and their copies.
class WidenedOperands {
 public:
  WidenedOperands(const CpuContext& context, const ElementwiseKernels& kernels)
      : context_(context), kernels_(kernels) {}

  void add(const ConstMat& view) { add(view, nullptr); }
  void add(const Mat& view) { add(ConstMat(view), view.data); }
  /// After the last add(): makes the copies; with `keep` also of what is only written.
  void copy_in(bool keep);
  /// The copy in the place of the operand. In the order of add().
  template <typename Byte>
  void replace(device::MatView<Byte>& view) {
    if (is_widened(view)) view = next();
  }
  /// Rounds what was written into its place.
  void copy_out() const;

 private:
  struct Operand {
    ConstMat stored;
    std::byte* written = nullptr;  // the same memory; null: read only
    Mat copy;
  };
  static constexpr std::size_t kMost = 4;

  static bool is_widened(const ConstMat& view) {
    return view.dtype == DType::bf16 && view.data != nullptr;
  }
  void add(const ConstMat& view, std::byte* written);
  Mat next() { return operands_[replaced_++].copy; }

  const CpuContext& context_;
  const ElementwiseKernels& kernels_;
  std::array<Operand, kMost> operands_;
  std::size_t count_ = 0, replaced_ = 0;
};

/// operation(args) with all operands() in f32. Copies are memory of the workspace, which the
/// operation may change.
template <typename Args, typename Operation>
void in_f32(const CpuContext& context, const ElementwiseKernels& kernels, Args args,
            const Operation& operation) {
  WidenedOperands widened(context, kernels);
  std::apply([&](auto&... views) { (widened.add(views), ...); }, operands(args));
  widened.copy_in(kKeepsParts<Args>);
  std::apply([&](auto&... views) { (widened.replace(views), ...); }, operands(args));
  operation(args);
  widened.copy_out();
}

/// As residual_backward() of f32, with a result rounded to what bf16 holds.
void mask_and_round(const CpuContext& context, const ElementwiseKernels& kernels,
                    const ResidualBackward& args);

}  // namespace elaswave::kernels
