#include <algorithm>

#include "model/kernels/cpu_kernels.h"

namespace elaswave::kernels {

namespace {

void check_tokens(std::span<const std::int32_t> ids_N, const ConstMat& x, std::int64_t T,
                  std::int64_t V, const Dropout& dropout) {
  EW_CHECK(T > 0 && x.rows % T == 0 && std::ssize(ids_N) == x.rows,
           "{} ids and {} rows for samples of {}", ids_N.size(), x.rows, T);
  EW_CHECK(dropout.rate == 0 || std::ssize(dropout.streams_B) == x.rows / T,
           "{} streams for {} samples", dropout.streams_B.size(), x.rows / T);
  for (const std::int32_t id : ids_N)
    EW_CHECK(id >= 0 && id < V, "token {} of a vocabulary of {}", id, V);
}

// Row `row` of a table as f32, in `room` (C floats) where it is stored in bf16: of a table, a call
// reads few rows.
const float* table_row(const ElementwiseKernels& kernels, const ConstMat& table, std::int64_t row,
                       float* room) {
  const std::byte* stored = table.row(row);
  if (table.dtype == DType::f32) return reinterpret_cast<const float*>(stored);
  kernels.widen(reinterpret_cast<const std::uint16_t*>(stored), room, table.cols);
  return room;
}

// Rows of the token table: those of the ids [begin, begin + V).
struct TableSlice {
  std::int64_t begin, V;
  bool has(std::int32_t id) const { return id >= begin && id < begin + V; }
};

// Positions ordered by (row of the table, position), those alone whose row is in the slice; group g
// of equal rows is order[first[g]] .. order[first[g + 1] - 1].
struct Groups {
  std::uint64_t* order;  // id - slice begin << 32 | position
  std::int64_t* first;
  std::int64_t count;
};
std::int64_t id_of(std::uint64_t key) {
  return static_cast<std::int64_t>(key >> 32);
}
std::int64_t position_of(std::uint64_t key) {
  return static_cast<std::int64_t>(key & 0xFFFFFFFFu);
}

// Floats of the memory that groups of N positions take, in whole cache lines: 2 N + 1 words of 8
// bytes.
std::int64_t group_memory_elems(std::int64_t N) {
  return round_up(2 * (2 * N + 1), 16);
}

Groups group_by_id(std::span<const std::int32_t> ids_N, const TableSlice& slice, float* memory) {
  const std::int64_t N = std::ssize(ids_N);
  Groups groups = {reinterpret_cast<std::uint64_t*>(memory),
                   reinterpret_cast<std::int64_t*>(memory) + N, 0};
  std::int64_t present = 0;
  for (std::int64_t i = 0; i < N; ++i) {
    const std::int32_t id = ids_N[static_cast<std::size_t>(i)];
    if (!slice.has(id)) continue;
    const auto row = static_cast<std::uint64_t>(id - slice.begin);
    groups.order[present++] = row << 32 | static_cast<std::uint64_t>(i);
  }
  std::sort(groups.order, groups.order + present);
  for (std::int64_t i = 0; i < present; ++i)
    if (i == 0 || id_of(groups.order[i]) != id_of(groups.order[i - 1]))
      groups.first[groups.count++] = i;
  groups.first[groups.count] = present;
  return groups;
}

// Rows of the table whose token does not occur get zeros when the sums start here.
void skip_absent_rows(const CpuContext& context, const Groups& groups, const GradSink& sink,
                      std::int64_t V, std::int64_t C) {
  if (!sink.overwrite) return;
  run_pieces(context, V, rows_per_task(C), [&](std::int64_t first, std::int64_t count) {
    const std::uint64_t* begin = groups.order;
    const std::uint64_t* end = begin + groups.first[groups.count];
    const std::uint64_t* next =
        std::lower_bound(begin, end, static_cast<std::uint64_t>(first) << 32);
    for (std::int64_t id = first; id < first + count; ++id) {
      const bool present = next != end && id_of(*next) == id;
      if (!present) skip_in_sink(sink, id * C, C);
      while (next != end && id_of(*next) == id) ++next;
    }
  });
}

// Gradients of the table's rows: those of dx of one id, by ascending position. `memory` holds
// group_memory_elems(N).
void sum_by_token(const CpuContext& context, const ElementwiseKernels& kernels,
                  std::span<const std::int32_t> ids_N, const ConstMat& dx_NC,
                  const TableSlice& slice, const GradSink& sink, float* memory) {
  const std::int64_t C = dx_NC.cols, stride = dx_NC.stride;
  const float* grad = read_f32(dx_NC);
  const Groups groups = group_by_id(ids_N, slice, memory);
  context.workspace.prepare_workers(context.stream.pool().threads(), C);
  skip_absent_rows(context, groups, sink, slice.V, C);
  run_pieces_indexed(context, groups.count, 4,
                     [&](std::int64_t first, std::int64_t count, int worker) {
                       float* sum = context.workspace.worker(worker);
                       for (std::int64_t g = first; g < first + count; ++g) {
                         const std::uint64_t* key = groups.order + groups.first[g];
                         const std::uint64_t* end = groups.order + groups.first[g + 1];
                         const std::int64_t id = id_of(*key);
                         std::copy_n(grad + position_of(*key) * stride, C, sum);
                         while (++key != end)
                           kernels.add(sum, grad + position_of(*key) * stride, sum, C);
                         add_to_sink(context, sink, id * C, sum, C);
                       }
                     });
}

// Gradients of the table of positions: those of the rows of dx (from row_begin of the micro-batch
// on) of one position, in order.
void sum_by_position(const CpuContext& context, const ElementwiseKernels& kernels,
                     const ConstMat& dx_NC, std::int64_t T, std::int64_t row_begin,
                     const GradSink& sink) {
  const std::int64_t N = dx_NC.rows, C = dx_NC.cols, stride = dx_NC.stride;
  const float* grad = read_f32(dx_NC);
  context.workspace.prepare_workers(context.stream.pool().threads(), C);
  run_pieces_indexed(context, sink.elems / C, rows_per_task(C * std::max<std::int64_t>(1, N / T)),
                     [&](std::int64_t first, std::int64_t count, int worker) {
                       float* sum = context.workspace.worker(worker);
                       for (std::int64_t t = first; t < first + count; ++t) {
                         std::int64_t row = (t + T - row_begin % T) % T;  // the first of t here
                         if (t >= T || row >= N) {
                           skip_in_sink(sink, t * C, C);
                           continue;
                         }
                         std::copy_n(grad + row * stride, C, sum);
                         while ((row += T) < N) kernels.add(sum, grad + row * stride, sum, C);
                         add_to_sink(context, sink, t * C, sum, C);
                       }
                     });
}

}  // namespace

void embedding_forward(const CpuContext& context, const ElementwiseKernels& kernels,
                       const EmbeddingForward& args) {
  const Mat& x = args.x_NC;
  const ConstMat &wte = args.wte_VC, &wpe = args.wpe_TC;
  check_tokens(args.ids_N, x, args.T, wte.rows, args.dropout);
  EW_CHECK(wpe.rows >= args.T && wte.cols == x.cols && wpe.cols == x.cols,
           "{} positions of {} and tokens of {} for samples of {} x {}", wpe.rows, wpe.cols,
           wte.cols, args.T, x.cols);
  const float* positions = read_f32(wpe);
  float* out = write_f32(x);
  run_pieces(context, x.rows, rows_per_task(x.cols), [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t row = first; row < first + count; ++row) {
      const std::int64_t id = args.ids_N[static_cast<std::size_t>(row)], t = row % args.T;
      float* out_row = out + row * x.stride;
      const float* token = table_row(kernels, wte, id, out_row);
      kernels.add(token, positions + t * wpe.stride, out_row, x.cols);
      if (args.dropout.rate == 0) continue;
      const DropoutMask mask = row_mask(args.dropout, row, args.T, x.cols);
      kernels.dropout(mask, nullptr, out_row, out_row, x.cols);
    }
  });
}

void embedding_backward(const CpuContext& context, const ElementwiseKernels& kernels,
                        const EmbeddingBackward& args) {
  const std::int64_t N = args.dx_NC.rows, C = args.dx_NC.cols, T = args.T;
  const std::int64_t V = args.dwte_VC.elems / C, rows = args.dwpe_TC.elems / C;
  check_tokens(args.ids_N, args.dx_NC, T, V, args.dropout);
  EW_CHECK(rows >= T, "sums of {} positions for samples of {}", rows, T);
  const bool masked = args.dropout.rate != 0;
  const std::int64_t words = group_memory_elems(N);
  float* memory = context.workspace.shared(words + (masked ? N * C : 0));
  ConstMat grad_NC = args.dx_NC;
  if (masked) {  // both tables read each row: mask once
    const Mat masked_NC =
        device::mat(std::span(memory + words, static_cast<std::size_t>(N * C)), N, C);
    residual_backward(context, kernels, {grad_NC, T, args.dropout, masked_NC});
    grad_NC = masked_NC;
  }
  sum_by_token(context, kernels, args.ids_N, grad_NC, {0, V}, args.dwte_VC, memory);
  sum_by_position(context, kernels, grad_NC, T, 0, args.dwpe_TC);
}

void embedding_lookup(const CpuContext& context, const ElementwiseKernels& kernels,
                      const EmbeddingLookup& args) {
  const ConstMat& wte = args.wte_VC;
  const Mat& out = args.out_NC;
  const TableSlice slice = {args.vocab_begin, wte.rows};
  EW_CHECK(std::ssize(args.ids_N) == out.rows && wte.cols == out.cols && slice.begin >= 0,
           "{} ids of tokens of {}, from token {} on, for {} x {}", args.ids_N.size(), wte.cols,
           slice.begin, out.rows, out.cols);
  float* to = write_f32(out);
  run_pieces(context, out.rows, rows_per_task(out.cols),
             [&](std::int64_t first, std::int64_t count) {
               for (std::int64_t row = first; row < first + count; ++row) {
                 const std::int32_t id = args.ids_N[static_cast<std::size_t>(row)];
                 float* out_row = to + row * out.stride;
                 if (!slice.has(id)) {  // -0 + x is x for every x, 0 + x is not for x = -0
                   std::fill_n(out_row, out.cols, -0.0f);
                   continue;
                 }
                 const float* token = table_row(kernels, wte, id - slice.begin, out_row);
                 if (token != out_row) std::copy_n(token, out.cols, out_row);
               }
             });
}

void embedding_lookup_backward(const CpuContext& context, const ElementwiseKernels& kernels,
                               const EmbeddingLookupBackward& args) {
  const ConstMat& dx = args.dx_NC;
  EW_CHECK(std::ssize(args.ids_N) == dx.rows && args.vocab_begin >= 0,
           "{} ids, from token {} on, for {} rows", args.ids_N.size(), args.vocab_begin, dx.rows);
  const TableSlice slice = {args.vocab_begin, args.dwte_VC.elems / dx.cols};
  float* memory = context.workspace.shared(group_memory_elems(dx.rows));
  sum_by_token(context, kernels, args.ids_N, dx, slice, args.dwte_VC, memory);
}

void embedding_positions(const CpuContext& context, const ElementwiseKernels& kernels,
                         const EmbeddingPositions& args) {
  const ConstMat &x = args.x_NC, &wpe = args.wpe_TC;
  const Mat& out = args.out_NC;
  check_rows(args.row_begin, x.rows, args.T, args.dropout);
  EW_CHECK(out.rows == x.rows && out.cols == x.cols && wpe.rows >= args.T && wpe.cols == x.cols,
           "{} x {} and {} positions of {} for {} x {}, samples of {}", x.rows, x.cols, wpe.rows,
           wpe.cols, out.rows, out.cols, args.T);
  const float *from = read_f32(x), *positions = read_f32(wpe);
  float* to = write_f32(out);
  run_pieces(context, x.rows, rows_per_task(x.cols), [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t row = first; row < first + count; ++row) {
      const std::int64_t whole_row = args.row_begin + row;
      float* out_row = to + row * out.stride;
      kernels.add(from + row * x.stride, positions + whole_row % args.T * wpe.stride, out_row,
                  x.cols);
      if (args.dropout.rate == 0) continue;
      const DropoutMask mask = row_mask(args.dropout, whole_row, args.T, x.cols);
      kernels.dropout(mask, nullptr, out_row, out_row, x.cols);
    }
  });
}

void embedding_positions_backward(const CpuContext& context, const ElementwiseKernels& kernels,
                                  const EmbeddingPositionsBackward& args) {
  const std::int64_t rows = args.dwpe_TC.elems / args.dx_NC.cols;
  EW_CHECK(rows >= args.T, "sums of {} positions for samples of {}", rows, args.T);
  residual_backward(context, kernels,
                    {args.dx_NC, args.T, args.dropout, args.masked_NC, args.row_begin});
  sum_by_position(context, kernels, args.masked_NC, args.T, args.row_begin, args.dwpe_TC);
}

}  // namespace elaswave::kernels
