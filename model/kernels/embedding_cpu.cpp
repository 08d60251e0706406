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

// Positions ordered by (token id, position); group g of equal ids is order[first[g]] ..
// order[first[g + 1] - 1].
struct Groups {
  std::uint64_t* order;  // id << 32 | position
  std::int64_t* first;
  std::int64_t count;
};
std::int64_t id_of(std::uint64_t key) {
  return static_cast<std::int64_t>(key >> 32);
}
std::int64_t position_of(std::uint64_t key) {
  return static_cast<std::int64_t>(key & 0xFFFFFFFFu);
}

// `memory` holds 2 N + 1 words of 8 bytes.
Groups group_by_id(std::span<const std::int32_t> ids_N, float* memory) {
  const std::int64_t N = std::ssize(ids_N);
  Groups groups = {reinterpret_cast<std::uint64_t*>(memory),
                   reinterpret_cast<std::int64_t*>(memory) + N, 0};
  for (std::int64_t i = 0; i < N; ++i) {
    const auto id = static_cast<std::uint64_t>(ids_N[static_cast<std::size_t>(i)]);
    groups.order[i] = id << 32 | static_cast<std::uint64_t>(i);
  }
  std::sort(groups.order, groups.order + N);
  for (std::int64_t i = 0; i < N; ++i)
    if (i == 0 || id_of(groups.order[i]) != id_of(groups.order[i - 1]))
      groups.first[groups.count++] = i;
  groups.first[groups.count] = N;
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

}  // namespace

void embedding_forward(const CpuContext& context, const ElementwiseKernels& kernels,
                       const EmbeddingForward& args) {
  const Mat& x = args.x_NC;
  const ConstMat &wte = args.wte_VC, &wpe = args.wpe_TC;
  check_tokens(args.ids_N, x, args.T, wte.rows, args.dropout);
  EW_CHECK(wpe.rows >= args.T && wte.cols == x.cols && wpe.cols == x.cols,
           "{} positions of {} and tokens of {} for samples of {} x {}", wpe.rows, wpe.cols,
           wte.cols, args.T, x.cols);
  const float *tokens = read_f32(wte), *positions = read_f32(wpe);
  float* out = write_f32(x);
  run_pieces(context, x.rows, rows_per_task(x.cols), [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t row = first; row < first + count; ++row) {
      const std::int64_t id = args.ids_N[static_cast<std::size_t>(row)], t = row % args.T;
      float* out_row = out + row * x.stride;
      kernels.add(tokens + id * wte.stride, positions + t * wpe.stride, out_row, x.cols);
      if (args.dropout.rate == 0) continue;
      DropoutMask mask = dropout_mask(args.dropout, row / args.T);
      mask.first_element = static_cast<std::uint64_t>(t * x.cols);
      kernels.dropout(mask, nullptr, out_row, out_row, x.cols);
    }
  });
}

void embedding_backward(const CpuContext& context, const ElementwiseKernels& kernels,
                        const EmbeddingBackward& args) {
  const ConstMat& dx = args.dx_NC;
  const std::int64_t N = dx.rows, C = dx.cols, T = args.T;
  const std::int64_t V = args.dwte_VC.elems / C, rows = args.dwpe_TC.elems / C;
  check_tokens(args.ids_N, dx, T, V, args.dropout);
  EW_CHECK(rows >= T, "sums of {} positions for samples of {}", rows, T);
  const bool masked = args.dropout.rate != 0;
  const std::int64_t words = round_up(2 * (2 * N + 1), 16);  // of the groups
  float* memory = context.workspace.shared(words + (masked ? N * C : 0));
  const Groups groups = group_by_id(args.ids_N, memory);
  const float* grad = read_f32(dx);
  std::int64_t stride = dx.stride;
  if (masked) {  // both tables read each row: mask once
    const ResidualBackward mask = {
        dx, T, args.dropout,
        device::mat(std::span(memory + words, static_cast<std::size_t>(N * C)), N, C)};
    residual_backward(context, kernels, mask);
    grad = memory + words;
    stride = C;
  }
  context.workspace.prepare_workers(context.stream.pool().threads(), C);
  skip_absent_rows(context, groups, args.dwte_VC, V, C);
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
                         add_to_sink(context, args.dwte_VC, id * C, sum, C);
                       }
                     });
  run_pieces_indexed(context, rows, rows_per_task(C * (N / T)),
                     [&](std::int64_t first, std::int64_t count, int worker) {
                       float* sum = context.workspace.worker(worker);
                       for (std::int64_t t = first; t < first + count; ++t) {
                         if (t >= T) {
                           skip_in_sink(args.dwpe_TC, t * C, C);
                           continue;
                         }
                         std::copy_n(grad + t * stride, C, sum);
                         for (std::int64_t row = t + T; row < N; row += T)
                           kernels.add(sum, grad + row * stride, sum, C);
                         add_to_sink(context, args.dwpe_TC, t * C, sum, C);
                       }
                     });
}

}  // namespace elaswave::kernels
