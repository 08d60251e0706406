#include <algorithm>

#include "model/kernels/cpu_kernels.h"

namespace elaswave::kernels {

namespace {

// Rows whose dgamma and dbeta are summed before they meet those of other rows; part of the order of
// summation.
constexpr std::int64_t kNormRows = 32;
constexpr std::int64_t kNormColumns = 256;  // of one task of the second sum

void check_norm(const ConstMat& x, std::size_t gamma, std::size_t mean, std::size_t rstd) {
  EW_CHECK(static_cast<std::int64_t>(gamma) == x.cols, "gamma of {} for {} columns", gamma, x.cols);
  EW_CHECK(static_cast<std::int64_t>(mean) >= x.rows && static_cast<std::int64_t>(rstd) >= x.rows,
           "{} means and {} deviations for {} rows", mean, rstd, x.rows);
}

// sink_C += sum over blocks of partial[block * stride + column], in order of block.
void add_blocks_to_sink(const CpuContext& context, const float* partial, std::int64_t blocks,
                        std::int64_t stride, std::int64_t C, const GradSink& sink_C) {
  run_pieces(context, C, kNormColumns, [&](std::int64_t first, std::int64_t n) {
    float sum[kNormColumns];
    std::copy_n(partial + first, n, sum);
    for (std::int64_t block = 1; block < blocks; ++block)
      context.simd.add(partial + block * stride + first, n, sum);
    add_to_sink(context, sink_C, first, sum, n);
  });
}

}  // namespace

void layernorm_forward(const CpuContext& context, const NormKernels& kernels,
                       const LayerNormForward& args) {
  const ConstMat& x = args.x_NC;
  check_norm(x, args.gamma_C.size(), args.mean_N.size(), args.rstd_N.size());
  EW_CHECK(args.beta_C.size() == args.gamma_C.size(), "beta of {} beside gamma of {}",
           args.beta_C.size(), args.gamma_C.size());
  const float* from = read_f32(x);
  float* to = write_f32(args.y_NC);
  run_pieces(context, x.rows, rows_per_task(x.cols), [&](std::int64_t first, std::int64_t count) {
    kernels.forward({.x = from + first * x.stride,
                     .y = to + first * args.y_NC.stride,
                     .x_stride = x.stride,
                     .y_stride = args.y_NC.stride,
                     .gamma = args.gamma_C.data(),
                     .beta = args.beta_C.data(),
                     .mean = args.mean_N.data() + first,
                     .rstd = args.rstd_N.data() + first,
                     .epsilon = args.epsilon,
                     .rows = count,
                     .C = x.cols});
  });
}

void layernorm_backward(const CpuContext& context, const NormKernels& kernels,
                        const LayerNormBackward& args) {
  const ConstMat &x = args.x_NC, &dy = args.dy_NC, &dresidual = args.dresidual_NC;
  check_norm(x, args.gamma_C.size(), args.mean_N.size(), args.rstd_N.size());
  const std::int64_t C = x.cols, blocks = ceil_div(x.rows, kNormRows);
  const float *x_data = read_f32(x), *dy_data = read_f32(dy);
  const float* dresidual_data = dresidual.data == nullptr ? nullptr : read_f32(dresidual);
  float* dx_data = write_f32(args.dx_NC);
  float* partial = context.workspace.shared(blocks * 2 * C);  // of each block: dgamma, dbeta
  run_pieces(context, x.rows, kNormRows, [&](std::int64_t first, std::int64_t count) {
    float* sums = partial + first / kNormRows * 2 * C;
    kernels.backward({.dy = dy_data + first * dy.stride,
                      .x = x_data + first * x.stride,
                      .dresidual = dresidual_data == nullptr
                                       ? nullptr
                                       : dresidual_data + first * dresidual.stride,
                      .dx = dx_data + first * args.dx_NC.stride,
                      .dy_stride = dy.stride,
                      .x_stride = x.stride,
                      .dresidual_stride = dresidual.stride,
                      .dx_stride = args.dx_NC.stride,
                      .gamma = args.gamma_C.data(),
                      .mean = args.mean_N.data() + first,
                      .rstd = args.rstd_N.data() + first,
                      .dgamma = sums,
                      .dbeta = sums + C,
                      .rows = count,
                      .C = C});
  });
  add_blocks_to_sink(context, partial, blocks, 2 * C, C, args.dgamma_C);
  add_blocks_to_sink(context, partial + C, blocks, 2 * C, C, args.dbeta_C);
}

}  // namespace elaswave::kernels
