#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "io/base/bf16.h"
#include "model/kernels/cpu_kernels.h"

namespace elaswave::kernels {

namespace {

// body(first row, first column, columns) over pieces of equally shaped matrices; as one long row
// where all are contiguous.
template <typename Body>
void run_rows(const CpuContext& context, std::initializer_list<ConstMat> views, const Body& body) {
  const ConstMat& shape = *views.begin();
  if (std::all_of(views.begin(), views.end(), [](const ConstMat& v) { return v.contiguous(); })) {
    run_pieces(context, shape.elems(), kTaskElems,
               [&](std::int64_t first, std::int64_t count) { body(0, first, count); });
    return;
  }
  run_pieces(context, shape.rows, rows_per_task(shape.cols),
             [&](std::int64_t first, std::int64_t count) {
               for (std::int64_t row = first; row < first + count; ++row) body(row, 0, shape.cols);
             });
}

void check_same_shape(const ConstMat& a, const ConstMat& b) {
  EW_CHECK(a.rows == b.rows && a.cols == b.cols, "{} x {} beside {} x {}", a.rows, a.cols, b.rows,
           b.cols);
}

// Partial results of pieces of many ranges: piece p of range i is number first_piece[i] + p.
struct Pieces {
  std::int64_t* first_piece;  // ranges + 1
  std::byte* partial;         // 8 bytes a piece
  std::int64_t count;
};

constexpr std::int64_t kReductionPiece = 65536;  // elements; part of the order of sum_squares

Pieces cut_ranges(const CpuContext& context, std::span<const std::span<const float>> ranges) {
  const auto size = static_cast<std::int64_t>(ranges.size());
  std::int64_t total = 0;
  for (const auto& range : ranges) total += ceil_div(std::ssize(range), kReductionPiece);
  auto* memory = reinterpret_cast<std::byte*>(context.workspace.shared(2 * (size + 1 + total)));
  Pieces pieces = {reinterpret_cast<std::int64_t*>(memory), memory + (size + 1) * 8, total};
  std::int64_t next = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    pieces.first_piece[i] = next;
    next += ceil_div(std::ssize(ranges[static_cast<std::size_t>(i)]), kReductionPiece);
  }
  pieces.first_piece[size] = next;
  return pieces;
}

// partial[number] = body(range index, first element, count) for every piece.
template <typename Value, typename Body>
void reduce_pieces(const CpuContext& context, std::span<const std::span<const float>> ranges,
                   const Pieces& pieces, const Body& body) {
  auto* partial = reinterpret_cast<Value*>(pieces.partial);
  run_pieces(context, pieces.count, 1, [&](std::int64_t number, std::int64_t) {
    const std::int64_t* end = pieces.first_piece + ranges.size() + 1;
    const std::int64_t* begin = pieces.first_piece;
    const std::int64_t* after = std::upper_bound(begin, end, number);
    const std::int64_t index = after - begin - 1;
    const std::int64_t first = (number - pieces.first_piece[index]) * kReductionPiece;
    const std::int64_t size = std::ssize(ranges[static_cast<std::size_t>(index)]);
    partial[number] =
        body(static_cast<std::size_t>(index), first, std::min(kReductionPiece, size - first));
  });
}

template <typename Value>
void add_pieces(const Pieces& pieces, std::span<Value> out) {
  const auto* partial = reinterpret_cast<const Value*>(pieces.partial);
  for (std::size_t i = 0; i < out.size(); ++i) {
    Value total = 0;
    for (std::int64_t p = pieces.first_piece[i]; p < pieces.first_piece[i + 1]; ++p)
      total += partial[p];
    out[i] = total;
  }
}

}  // namespace

const float* read_f32(const ConstMat& view) {
  EW_CHECK(view.dtype == DType::f32, "the CPU kernels take f32, not {}", name(view.dtype));
  return reinterpret_cast<const float*>(view.data);
}
float* write_f32(const Mat& view) {
  EW_CHECK(view.dtype == DType::f32, "the CPU kernels take f32, not {}", name(view.dtype));
  return reinterpret_cast<float*>(view.data);
}

void add_to_sink(const CpuContext& context, const GradSink& sink, std::int64_t first,
                 const float* gradient, std::int64_t n) {
  EW_DCHECK(first >= 0 && first + n <= sink.elems, "elements {}+{} of {}", first, n, sink.elems);
  const GemmSimd& simd = context.simd;
  const bool good = sink.exact != nullptr ? (sink.overwrite ? simd.store_exact : simd.add_exact)(
                                                gradient, n, sink.limit, sink.exact + first)
                                          : (sink.overwrite ? simd.store_fast : simd.add_fast)(
                                                gradient, n, sink.fast + first);
  if (!good) sink.flag->bad.store(1, std::memory_order_relaxed);
}

void skip_in_sink(const GradSink& sink, std::int64_t first, std::int64_t n) {
  if (!sink.overwrite) return;
  if (sink.exact != nullptr)
    std::fill_n(sink.exact + first, n, 0);
  else
    std::fill_n(sink.fast + first, n, 0.0f);
}

DropoutMask dropout_mask(const Dropout& dropout, std::int64_t sample) {
  EW_CHECK(dropout.rate > 0 && dropout.rate < 1, "dropout rate {}", dropout.rate);
  const RandomStream& stream = dropout.streams_B[static_cast<std::size_t>(sample)];
  DropoutMask mask;
  for (std::size_t i = 0; i < 2; ++i) {
    mask.key[i] = stream.key[i];
    mask.high[i] = stream.high[i];
  }
  // uniform01(word) < rate is (word >> 9) + 1/2 < rate * 2^23, exactly; in integers: (word >> 9) <
  // ceil(rate * 2^23 - 1/2).
  const double bound = std::ceil(static_cast<double>(dropout.rate) * 0x1p23 - 0.5);
  mask.threshold = static_cast<std::uint32_t>(bound) << 9;
  mask.keep_scale = 1.0f / (1.0f - dropout.rate);
  return mask;
}

void check_rows(std::int64_t row_begin, std::int64_t rows, std::int64_t T, const Dropout& dropout) {
  EW_CHECK(T > 0 && row_begin >= 0, "rows from {} on of samples of {}", row_begin, T);
  EW_CHECK(dropout.rate == 0 || row_begin + rows <= std::ssize(dropout.streams_B) * T,
           "{} streams for rows {}+{} of samples of {}", dropout.streams_B.size(), row_begin, rows,
           T);
}

DropoutMask row_mask(const Dropout& dropout, std::int64_t row, std::int64_t T, std::int64_t C) {
  DropoutMask mask = dropout_mask(dropout, row / T);
  mask.first_element = static_cast<std::uint64_t>(row % T * C);
  return mask;
}

void gelu_forward(const CpuContext& context, const ElementwiseKernels& kernels,
                  const GeluForward& args) {
  check_same_shape(args.x, args.y);
  const float* x = read_f32(args.x);
  float* y = write_f32(args.y);
  run_rows(context, {args.x, args.y}, [&](std::int64_t row, std::int64_t first, std::int64_t n) {
    kernels.gelu_forward(x + row * args.x.stride + first, y + row * args.y.stride + first, n);
  });
}

void gelu_backward(const CpuContext& context, const ElementwiseKernels& kernels,
                   const GeluBackward& args) {
  check_same_shape(args.x, args.dy);
  check_same_shape(args.x, args.dx);
  const float *x = read_f32(args.x), *dy = read_f32(args.dy);
  float* dx = write_f32(args.dx);
  run_rows(context, {args.x, args.dy, args.dx},
           [&](std::int64_t row, std::int64_t first, std::int64_t n) {
             kernels.gelu_backward(x + row * args.x.stride + first,
                                   dy + row * args.dy.stride + first,
                                   dx + row * args.dx.stride + first, n);
           });
}

void residual_forward(const CpuContext& context, const ElementwiseKernels& kernels,
                      const ResidualForward& args) {
  const ConstMat &residual = args.residual_NC, &branch = args.branch_NC;
  check_same_shape(residual, branch);
  check_same_shape(residual, args.out_NC);
  check_rows(args.row_begin, residual.rows, args.T, args.dropout);
  const float *a = read_f32(residual), *b = read_f32(branch);
  float* out = write_f32(args.out_NC);
  run_pieces(context, residual.rows, rows_per_task(residual.cols),
             [&](std::int64_t first, std::int64_t count) {
               for (std::int64_t row = first; row < first + count; ++row) {
                 const float *a_row = a + row * residual.stride, *b_row = b + row * branch.stride;
                 float* out_row = out + row * args.out_NC.stride;
                 if (args.dropout.rate == 0) {
                   kernels.add(a_row, b_row, out_row, residual.cols);
                   continue;
                 }
                 const DropoutMask mask =
                     row_mask(args.dropout, args.row_begin + row, args.T, residual.cols);
                 kernels.dropout(mask, a_row, b_row, out_row, residual.cols);
               }
             });
}

void residual_backward(const CpuContext& context, const ElementwiseKernels& kernels,
                       const ResidualBackward& args) {
  const ConstMat& dout = args.dout_NC;
  check_same_shape(dout, args.dbranch_NC);
  check_rows(args.row_begin, dout.rows, args.T, args.dropout);
  const float* from = read_f32(dout);
  float* to = write_f32(args.dbranch_NC);
  if (args.dropout.rate == 0 && from == to) return;
  run_pieces(
      context, dout.rows, rows_per_task(dout.cols), [&](std::int64_t first, std::int64_t count) {
        for (std::int64_t row = first; row < first + count; ++row) {
          const float* from_row = from + row * dout.stride;
          float* to_row = to + row * args.dbranch_NC.stride;
          if (args.dropout.rate == 0) {
            std::copy_n(from_row, dout.cols, to_row);
            continue;
          }
          const DropoutMask mask = row_mask(args.dropout, args.row_begin + row, args.T, dout.cols);
          kernels.dropout(mask, nullptr, from_row, to_row, dout.cols);
        }
      });
}

void adamw(const CpuContext& context, const ElementwiseKernels& kernels,
           std::span<const AdamW> blocks) {
  run_pieces(context, std::ssize(blocks), 1, [&](std::int64_t index, std::int64_t) {
    const AdamW& block = blocks[static_cast<std::size_t>(index)];
    const AdamWScalars& s = block.scalars;
    const std::size_t size = block.master.size();
    EW_CHECK(
        block.moment1.size() == size && block.moment2.size() == size && block.grad.size() == size,
        "{} weights, {} and {} moments, {} gradients", size, block.moment1.size(),
        block.moment2.size(), block.grad.size());
    AdamWArgs args = {.master = block.master.data(),
                      .moment1 = block.moment1.data(),
                      .moment2 = block.moment2.data(),
                      .grad = block.grad.data(),
                      .lr = s.lr,
                      .beta1 = s.beta1,
                      .beta2 = s.beta2,
                      .epsilon = s.epsilon,
                      .weight_decay = s.weight_decay,
                      .clip = s.clip,
                      .correction1 = s.correction1,
                      .correction2 = s.correction2};
    if (block.working != nullptr && block.working_dtype == DType::f32)
      args.working_f32 = reinterpret_cast<float*>(block.working);
    if (block.working != nullptr && block.working_dtype == DType::bf16)
      args.working_bf16 = reinterpret_cast<std::uint16_t*>(block.working);
    kernels.adamw(args, static_cast<std::int64_t>(size));
  });
}

void store_weights(const CpuContext& context, std::span<const StoreWeights> blocks) {
  run_pieces(context, std::ssize(blocks), 1, [&](std::int64_t index, std::int64_t) {
    const StoreWeights& block = blocks[static_cast<std::size_t>(index)];
    if (block.dtype == DType::f32) {
      std::memcpy(block.stored, block.master.data(), block.master.size_bytes());
      return;
    }
    auto* out = reinterpret_cast<bf16*>(block.stored);
    for (std::size_t i = 0; i < block.master.size(); ++i) out[i] = to_bf16(block.master[i]);
  });
}

void mean_gradient(const CpuContext& context, const ElementwiseKernels& kernels,
                   std::span<const MeanGradient> blocks) {
  run_pieces(context, std::ssize(blocks), 1, [&](std::int64_t index, std::int64_t) {
    const MeanGradient& block = blocks[static_cast<std::size_t>(index)];
    const bool exact = block.fast_sums.empty();
    EW_CHECK((exact ? block.exact_sums.size() : block.fast_sums.size()) == block.mean.size(),
             "{} exact and {} fast sums for {} means", block.exact_sums.size(),
             block.fast_sums.size(), block.mean.size());
    if (exact)
      kernels.mean_exact(block.exact_sums.data(), block.scale, block.mean.data(),
                         std::ssize(block.mean));
    else
      kernels.mean_fast(block.fast_sums.data(), block.scale, block.mean.data(),
                        std::ssize(block.mean));
  });
}

void sum_squares(const CpuContext& context, const ElementwiseKernels& kernels,
                 std::span<const std::span<const float>> ranges, std::span<double> out) {
  EW_CHECK(out.size() == ranges.size(), "{} results for {} ranges", out.size(), ranges.size());
  const Pieces pieces = cut_ranges(context, ranges);
  reduce_pieces<double>(context, ranges, pieces,
                        [&](std::size_t i, std::int64_t first, std::int64_t n) {
                          return kernels.sum_squares(ranges[i].data() + first, n);
                        });
  add_pieces(pieces, out);
}

void digest(const CpuContext& context, const ElementwiseKernels& kernels,
            std::span<const std::span<const float>> ranges, std::span<const std::uint64_t> keys,
            std::span<std::uint64_t> out) {
  EW_CHECK(out.size() == ranges.size() && keys.size() == ranges.size(),
           "{} keys and {} results for {} ranges", keys.size(), out.size(), ranges.size());
  const Pieces pieces = cut_ranges(context, ranges);
  reduce_pieces<std::uint64_t>(context, ranges, pieces,
                               [&](std::size_t i, std::int64_t first, std::int64_t n) {
                                 return kernels.digest(ranges[i].data() + first, keys[i], first, n);
                               });
  add_pieces(pieces, out);
}

}  // namespace elaswave::kernels
