#include "tests/bench/kernel_costs.h"

#include <fmt/format.h>

#include <algorithm>

namespace elaswave::bench {

using namespace kernels;  // NOLINT(google-build-using-namespace): every operation is named here

namespace {

double bytes(const ConstMat& view) {
  return view.data == nullptr
             ? 0
             : static_cast<double>(view.elems() * elaswave::size_bytes(view.dtype));
}
template <typename T>
double bytes(std::span<T> span) {
  return static_cast<double>(span.size_bytes());
}
double bytes(const GradSink& sink) {
  const double once = static_cast<double>(sink.elems) * (sink.exact != nullptr ? 8 : 4);
  return sink.overwrite ? once : 2 * once;
}
/// The rows of a table that so many tokens can name.
double rows_named(const ConstMat& table, std::size_t tokens) {
  const auto named = static_cast<double>(std::min(table.rows, static_cast<std::int64_t>(tokens)));
  return bytes(table) * named / static_cast<double>(std::max<std::int64_t>(1, table.rows));
}
double product(std::int64_t M, std::int64_t N, std::int64_t K) {
  return 2.0 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K);
}
std::string shape(const ConstMat& view) {
  return fmt::format("{} x {} {}", view.rows, view.cols, name(view.dtype));
}
std::string shape(const ConstMat& x, std::int64_t inner) {
  return fmt::format("{} x {} x {} {}", x.rows, x.cols, inner, name(x.dtype));
}
std::string with(std::string text, const Dropout& dropout) {
  return dropout.rate == 0 ? text : fmt::format("{}, dropout {:.2g}", text, dropout.rate);
}
std::string with(std::string text, const GradSink& sink) {
  return text + (sink.overwrite ? "" : ", added");
}
/// Causal attention multiplies T^2 / 2 pairs of rows of a head for each of `products`.
double attention_flops(const ConstMat& out_NC, std::int64_t T, int products) {
  return products * static_cast<double>(out_NC.elems()) * static_cast<double>(T);
}
std::string attention_shape(const ConstMat& out_NC, std::int64_t T, std::int64_t H) {
  return fmt::format("{} x {} x {} heads of {} {}", out_NC.rows / T, T, H, out_NC.cols / H,
                     name(out_NC.dtype));
}

}  // namespace

Cost cost_of(const EmbeddingForward& args) {
  return {bytes(args.ids_N) + rows_named(args.wte_VC, args.ids_N.size()) +
              bytes(args.wpe_TC.rows_from(0, args.T)) + bytes(args.x_NC),
          0, with(shape(args.x_NC), args.dropout)};
}
Cost cost_of(const EmbeddingBackward& args) {
  return {bytes(args.ids_N) + bytes(args.dx_NC) + bytes(args.dwte_VC) + bytes(args.dwpe_TC), 0,
          with(with(shape(args.dx_NC), args.dropout), args.dwte_VC)};
}
Cost cost_of(const EmbeddingLookup& args) {
  return {bytes(args.ids_N) + rows_named(args.wte_VC, args.ids_N.size()) + bytes(args.out_NC), 0,
          shape(args.out_NC)};
}
Cost cost_of(const EmbeddingLookupBackward& args) {
  return {bytes(args.ids_N) + bytes(args.dx_NC) + bytes(args.dwte_VC), 0,
          with(shape(args.dx_NC), args.dwte_VC)};
}
Cost cost_of(const EmbeddingPositions& args) {
  return {bytes(args.x_NC) + bytes(args.wpe_TC.rows_from(0, args.T)) + bytes(args.out_NC), 0,
          with(shape(args.out_NC), args.dropout)};
}
Cost cost_of(const EmbeddingPositionsBackward& args) {
  return {bytes(args.dx_NC) + bytes(args.masked_NC) + bytes(args.dwpe_TC), 0,
          with(with(shape(args.dx_NC), args.dropout), args.dwpe_TC)};
}

Cost cost_of(const LayerNormForward& args) {
  return {bytes(args.x_NC) + bytes(args.y_NC) + bytes(args.gamma_C) + bytes(args.beta_C) +
              bytes(args.mean_N) + bytes(args.rstd_N),
          0, shape(args.x_NC)};
}
Cost cost_of(const LayerNormBackward& args) {
  return {bytes(args.dy_NC) + bytes(args.x_NC) + bytes(args.dresidual_NC) + bytes(args.dx_NC) +
              bytes(args.mean_N) + bytes(args.rstd_N) + bytes(args.dgamma_C) + bytes(args.dbeta_C),
          0, with(shape(args.x_NC), args.dgamma_C)};
}

Cost cost_of(const LinearForward& args) {
  return {bytes(args.x_NC) + bytes(args.w_CD) + bytes(args.b_D) + bytes(args.y_ND),
          product(args.x_NC.rows, args.w_CD.cols, args.x_NC.cols),
          shape(args.x_NC, args.w_CD.cols)};
}
Cost cost_of(const LinearBackwardInput& args) {
  return {bytes(args.dy_ND) + bytes(args.w_CD) + bytes(args.dx_NC),
          product(args.dy_ND.rows, args.w_CD.rows, args.dy_ND.cols),
          shape(args.dx_NC, args.dy_ND.cols)};
}
Cost cost_of(const LinearBackwardWeight& args) {
  return {bytes(args.x_NC) + bytes(args.dy_ND) + bytes(args.dw_CD) + bytes(args.db_D),
          product(args.x_NC.cols, args.dy_ND.cols, args.x_NC.rows),
          with(shape(args.x_NC, args.dy_ND.cols), args.dw_CD)};
}

Cost cost_of(const AttentionForward& args) {
  return {bytes(args.qkv_N3C) + bytes(args.out_NC) + bytes(args.lse_NH),
          attention_flops(args.out_NC, args.T, 2),
          with(attention_shape(args.out_NC, args.T, args.H), args.dropout)};
}
Cost cost_of(const AttentionBackward& args) {
  return {bytes(args.qkv_N3C) + bytes(args.out_NC) + bytes(args.dout_NC) + bytes(args.lse_NH) +
              bytes(args.dqkv_N3C),
          attention_flops(args.out_NC, args.T, 5),
          with(attention_shape(args.out_NC, args.T, args.H), args.dropout)};
}
Cost cost_of(const AttentionCached& args) {
  const std::int64_t N = args.out_NC.rows, keys = args.past + N;
  return {bytes(args.qkv_N3C) + bytes(args.out_NC) + bytes(args.keys_TC.rows_from(0, keys)) +
              bytes(args.values_TC.rows_from(0, keys)),
          4.0 * static_cast<double>(args.out_NC.elems()) *
              (static_cast<double>(args.past) + static_cast<double>(N + 1) / 2),
          fmt::format("{} after {}, {} heads", shape(args.out_NC), args.past, args.H)};
}

Cost cost_of(const GeluForward& args) {
  return {bytes(args.x) + bytes(args.y), 0, shape(args.x)};
}
Cost cost_of(const GeluBackward& args) {
  return {bytes(args.x) + bytes(args.dy) + bytes(args.dx), 0, shape(args.x)};
}
Cost cost_of(const ResidualForward& args) {
  return {bytes(args.residual_NC) + bytes(args.branch_NC) + bytes(args.out_NC), 0,
          with(shape(args.out_NC), args.dropout)};
}
Cost cost_of(const ResidualBackward& args) {
  return {bytes(args.dout_NC) + bytes(args.dbranch_NC), 0, with(shape(args.dout_NC), args.dropout)};
}

Cost cost_of(const HeadLoss& args) {
  const bool gradient = args.dx_NC.data != nullptr;
  return {bytes(args.x_NC) + bytes(args.w_VC) + bytes(args.targets_N) + bytes(args.loss_N) +
              (gradient ? bytes(args.dx_NC) + bytes(args.dw_VC) : 0),
          (gradient ? 3 : 1) * product(args.x_NC.rows, args.w_VC.rows, args.x_NC.cols),
          shape(args.x_NC, args.w_VC.rows) + (gradient ? ", gradient" : "")};
}
Cost cost_of(const HeadLogits& args) {
  return {bytes(args.x_NC) + bytes(args.w_VC) + bytes(args.logits_NV) + bytes(args.stats_N),
          product(args.x_NC.rows, args.w_VC.rows, args.x_NC.cols),
          shape(args.x_NC, args.w_VC.rows)};
}
Cost cost_of(const HeadCombine& args) {
  return {bytes(args.stats_SN) + bytes(args.total_N) + bytes(args.loss_N), 0,
          fmt::format("{} of {} slices", args.total_N.size(),
                      args.stats_SN.size() / std::max<std::size_t>(1, args.total_N.size()))};
}
Cost cost_of(const HeadGradient& args) {
  return {bytes(args.logits_NV) + bytes(args.x_NC) + bytes(args.w_VC) + bytes(args.dx_NC) +
              bytes(args.dw_VC),
          2 * product(args.x_NC.rows, args.w_VC.rows, args.x_NC.cols),
          with(shape(args.x_NC, args.w_VC.rows), args.dw_VC)};
}

Cost cost_of(std::span<const AdamW> blocks) {
  Cost cost;
  for (const AdamW& block : blocks)
    cost.bytes +=
        2 * (bytes(block.master) + bytes(block.moment1) + bytes(block.moment2)) +
        bytes(block.grad) +
        (block.working == nullptr ? 0
                                  : static_cast<double>(std::ssize(block.master) *
                                                        elaswave::size_bytes(block.working_dtype)));
  cost.shape = fmt::format("{} blocks", blocks.size());
  return cost;
}
Cost cost_of(std::span<const MeanGradient> blocks) {
  Cost cost;
  for (const MeanGradient& block : blocks)
    cost.bytes += bytes(block.exact_sums) + bytes(block.fast_sums) + bytes(block.mean);
  cost.shape = fmt::format("{} blocks", blocks.size());
  return cost;
}
Cost cost_of(std::span<const StoreWeights> blocks) {
  Cost cost;
  for (const StoreWeights& block : blocks)
    cost.bytes += bytes(block.master) +
                  static_cast<double>(std::ssize(block.master) * elaswave::size_bytes(block.dtype));
  cost.shape = fmt::format("{} blocks", blocks.size());
  return cost;
}
Cost cost_of(std::span<const std::span<const float>> ranges) {
  Cost cost;
  for (const std::span<const float> range : ranges) cost.bytes += bytes(range);
  cost.shape = fmt::format("{} blocks", ranges.size());
  return cost;
}

}  // namespace elaswave::bench
