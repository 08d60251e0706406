#include <cmath>
#include <cstring>

#include "model/kernels/cpu_kernels.h"

namespace elaswave::kernels {

namespace {

// New positions of one task: a prompt keeps many threads busy even with few heads.
constexpr std::int64_t kTaskRows = 8;

void check_shapes(const AttentionCached& args) {
  const ConstMat& qkv = args.qkv_N3C;
  EW_CHECK(args.H > 0 && qkv.rows > 0 && qkv.cols % (3 * args.H) == 0,
           "{} x {} is not q, k and v of {} heads", qkv.rows, qkv.cols, args.H);
  const std::int64_t C = qkv.cols / 3;
  for (const Mat* cache : {&args.keys_TC, &args.values_TC})
    EW_CHECK(args.past >= 0 && args.past + qkv.rows <= cache->rows && cache->cols == C,
             "{} positions after {} in a cache of {} x {} (hidden {})", qkv.rows, args.past,
             cache->rows, cache->cols, C);
  EW_CHECK(args.out_NC.rows == qkv.rows && args.out_NC.cols == C,
           "attention of {} x {} stored as {} x {}", qkv.rows, C, args.out_NC.rows,
           args.out_NC.cols);
}

void append(const CpuContext& context, const AttentionCached& args) {
  const std::int64_t C = args.qkv_N3C.cols / 3;
  const float* qkv = read_f32(args.qkv_N3C);
  float *keys = write_f32(args.keys_TC), *values = write_f32(args.values_TC);
  run_pieces(context, args.qkv_N3C.rows, rows_per_task(2 * C),
             [&](std::int64_t first, std::int64_t count) {
               for (std::int64_t row = first; row < first + count; ++row) {
                 const float* from = qkv + row * args.qkv_N3C.stride + C;
                 const auto bytes = static_cast<std::size_t>(C) * sizeof(float);
                 std::memcpy(keys + (args.past + row) * args.keys_TC.stride, from, bytes);
                 std::memcpy(values + (args.past + row) * args.values_TC.stride, from + C, bytes);
               }
             });
}

}  // namespace

void attention_cached(const CpuContext& context, const CachedAttentionKernels& kernels,
                      const AttentionCached& args) {
  check_shapes(args);
  append(context, args);
  const std::int64_t N = args.qkv_N3C.rows, D = args.qkv_N3C.cols / (3 * args.H);
  const std::int64_t pieces = ceil_div(N, kTaskRows);
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(D)));
  const float* qkv = read_f32(args.qkv_N3C);
  const float *keys = write_f32(args.keys_TC), *values = write_f32(args.values_TC);
  float* out = write_f32(args.out_NC);
  // Sized for the whole cache: it does not grow while the sequence does.
  context.workspace.prepare_workers(context.stream.pool().threads(),
                                    kernels.scratch_elems(args.keys_TC.rows, D));
  run_pieces_indexed(context, args.H * pieces, 1, [&](std::int64_t task, std::int64_t, int worker) {
    const std::int64_t column = task / pieces * D, first = task % pieces * kTaskRows;
    kernels.rows({.q = qkv + first * args.qkv_N3C.stride + column,
                  .keys = keys + column,
                  .values = values + column,
                  .out = out + first * args.out_NC.stride + column,
                  .q_stride = args.qkv_N3C.stride,
                  .keys_stride = args.keys_TC.stride,
                  .values_stride = args.values_TC.stride,
                  .out_stride = args.out_NC.stride,
                  .rows = std::min(kTaskRows, N - first),
                  .first_keys = args.past + first + 1,
                  .D = D,
                  .scale = scale,
                  .scratch = context.workspace.worker(worker)});
  });
}

}  // namespace elaswave::kernels
