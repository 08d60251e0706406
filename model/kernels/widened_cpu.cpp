#include "model/kernels/widened_cpu.h"

namespace elaswave::kernels {

namespace {

// Rows begin on cache lines, and not in the same few cache sets (ops.h says why).
std::int64_t stride_of(std::int64_t cols) {
  return logits_stride(cols);
}

const std::uint16_t* words(const ConstMat& view, std::int64_t row) {
  return reinterpret_cast<const std::uint16_t*>(view.row(row));
}

template <typename Body>
void for_rows(const CpuContext& context, const ConstMat& view, const Body& body) {
  run_pieces(context, view.rows, rows_per_task(view.cols),
             [&](std::int64_t first, std::int64_t count) {
               for (std::int64_t row = first; row < first + count; ++row) body(row);
             });
}

}  // namespace

void WidenedOperands::add(const ConstMat& view, std::byte* written) {
  if (!is_widened(view)) return;
  EW_CHECK(count_ < kMost, "more than {} operands in bf16", kMost);
  operands_[count_++] = {.stored = view, .written = written, .copy = {}};
}

void WidenedOperands::copy_in(bool keep) {
  const std::span used(operands_.data(), count_);
  std::int64_t elems = 0;
  for (const Operand& operand : used) elems += operand.stored.rows * stride_of(operand.stored.cols);
  if (used.empty()) return;
  // An operand without rows has memory, too: null would stand for one that is not there.
  auto* memory =
      reinterpret_cast<std::byte*>(context_.workspace.widened(std::max<std::int64_t>(1, elems)));
  for (Operand& operand : used) {
    const ConstMat& stored = operand.stored;
    const std::int64_t stride = stride_of(stored.cols);
    operand.copy = {memory, DType::f32, stored.rows, stored.cols, stride};
    memory += stored.rows * stride * size_bytes(DType::f32);
    if (operand.written != nullptr && !keep) continue;
    for_rows(context_, stored, [&](std::int64_t row) {
      kernels_.widen(words(stored, row), operand.copy.f32() + row * stride, stored.cols);
    });
  }
}

void WidenedOperands::copy_out() const {
  for (const Operand& operand : std::span(operands_.data(), count_)) {
    if (operand.written == nullptr) continue;
    const Mat to = {operand.written, DType::bf16, operand.stored.rows, operand.stored.cols,
                    operand.stored.stride};
    for_rows(context_, to, [&](std::int64_t row) {
      kernels_.narrow(operand.copy.f32() + row * operand.copy.stride,
                      reinterpret_cast<std::uint16_t*>(to.row(row)), to.cols);
    });
  }
}

void mask_and_round(const CpuContext& context, const ElementwiseKernels& kernels,
                    const ResidualBackward& args) {
  residual_backward(context, kernels, args);
  const Mat& masked = args.dbranch_NC;
  for_rows(context, masked, [&](std::int64_t row) {
    constexpr std::int64_t kPiece = 512;
    std::uint16_t rounded[kPiece];
    for (std::int64_t first = 0; first < masked.cols; first += kPiece) {
      const std::int64_t count = std::min(kPiece, masked.cols - first);
      float* values = masked.f32() + row * masked.stride + first;
      kernels.narrow(values, rounded, count);
      kernels.widen(rounded, values, count);
    }
  });
}

}  // namespace elaswave::kernels
