#include "model/kernels/cuda_rows.h"

namespace elaswave::kernels::cuda {

namespace {

/// Rows of the token table: those of the ids [begin, begin + V).
struct TableSlice {
  std::int64_t begin = 0, V = 0;
  __device__ bool has(std::int32_t id) const { return id >= begin && id < begin + V; }
};

// out = mask * ((wte[id] or in) + wpe[position]); kTokens: rows come from the table.
template <typename T, int kWidth, bool kTokens, bool kDropout>
struct AddPosition {
  static constexpr int kElems = kWidth;
  const std::int32_t* ids;
  std::int64_t V;
  Rows<const T> in, positions;  // in: the table with kTokens
  Rows<T> out;
  std::uint32_t C;
  RowMasks<kDropout> masks;

  struct Loaded {
    float x[kWidth], position[kWidth];
  };
  __device__ Loaded load(const Place& place) const {
    Loaded loaded;
    const std::int64_t row = kTokens ? ids[place.row] : place.row;
    if (!kTokens || (row >= 0 && row < V)) {
      cuda::load(in.at(row, place.col), loaded.x);
    } else {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) loaded.x[i] = __uint_as_float(0x7FC00000u);  // NaN
    }
    cuda::load(positions.at(masks.position(place), place.col), loaded.position);
    return loaded;
  }
  __device__ void store(const Place& place, Loaded& loaded) const {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) loaded.x[i] = __fadd_rn(loaded.x[i], loaded.position[i]);
    masks.apply(place, C, loaded.x);
    cuda::store(out.at(place.row, place.col), loaded.x);
  }
};

template <bool kTokens, bool kDropout>
void add_positions(const CudaContext& context, std::span<const std::int32_t> ids_N,
                   const ConstMat& in, const EmbeddingPositions& args) {
  const ConstMat& wpe = args.wpe_TC;
  const Mat& out = args.out_NC;
  const std::int64_t C = out.cols;
  with_shape(C, {in, wpe, out}, [&]<typename T, int kWidth>() {
    for_stretches<kDropout>(
        out.rows, C, args.T, args.row_begin, args.dropout,
        [&](std::int64_t first, std::int64_t count, const RowMasks<kDropout>& masks) {
          launch_rows(context, first, count, C,
                      AddPosition<T, kWidth, kTokens, kDropout>{
                          ids_N.data(), in.rows, rows_of<T>(in), rows_of<T>(wpe), rows_of<T>(out),
                          static_cast<std::uint32_t>(C), masks});
        });
  });
}

template <typename T, typename Out, int kWidth>
struct Lookup {
  static constexpr int kElems = kWidth;
  const std::int32_t* ids;
  TableSlice slice;
  Rows<const T> wte;
  Rows<Out> out;

  struct Loaded {
    float x[kWidth];
  };
  __device__ Loaded load(const Place& place) const {
    Loaded loaded;
    const std::int32_t id = ids[place.row];
    if (slice.has(id)) {
      cuda::load(wte.at(id - slice.begin, place.col), loaded.x);
    } else {  // -0 + x is x for every x, 0 + x is not for x = -0
#pragma unroll
      for (int i = 0; i < kWidth; ++i) loaded.x[i] = -0.0f;
    }
    return loaded;
  }
  __device__ void store(const Place& place, const Loaded& loaded) const {
    cuda::store(out.at(place.row, place.col), loaded.x);
  }
};

}  // namespace

void embedding_forward(const CudaContext& context, const EmbeddingForward& args) {
  const Mat& x = args.x_NC;
  const ConstMat &wte = args.wte_VC, &wpe = args.wpe_TC;
  EW_CHECK(args.T > 0 && x.rows % args.T == 0 && std::ssize(args.ids_N) == x.rows,
           "{} ids and {} rows for samples of {}", args.ids_N.size(), x.rows, args.T);
  EW_CHECK(wpe.rows >= args.T && wte.cols == x.cols && wpe.cols == x.cols,
           "{} positions of {} and tokens of {} for samples of {} x {}", wpe.rows, wpe.cols,
           wte.cols, args.T, x.cols);
  const EmbeddingPositions rest = {
      .x_NC = {}, .wpe_TC = wpe, .T = args.T, .dropout = args.dropout, .out_NC = x};
  args.dropout.rate == 0 ? add_positions<true, false>(context, args.ids_N, wte, rest)
                         : add_positions<true, true>(context, args.ids_N, wte, rest);
}

void embedding_positions(const CudaContext& context, const EmbeddingPositions& args) {
  const ConstMat &x = args.x_NC, &wpe = args.wpe_TC;
  const Mat& out = args.out_NC;
  EW_CHECK(out.rows == x.rows && out.cols == x.cols && wpe.rows >= args.T && wpe.cols == x.cols,
           "{} x {} and {} positions of {} for {} x {}, samples of {}", x.rows, x.cols, wpe.rows,
           wpe.cols, out.rows, out.cols, args.T);
  args.dropout.rate == 0 ? add_positions<false, false>(context, {}, x, args)
                         : add_positions<false, true>(context, {}, x, args);
}

void embedding_lookup(const CudaContext& context, const EmbeddingLookup& args) {
  const ConstMat& wte = args.wte_VC;
  const Mat& out = args.out_NC;
  EW_CHECK(std::ssize(args.ids_N) == out.rows && wte.cols == out.cols && args.vocab_begin >= 0,
           "{} ids of tokens of {}, from token {} on, for {} x {}", args.ids_N.size(), wte.cols,
           args.vocab_begin, out.rows, out.cols);
  const auto look_up = [&]<typename T, typename Out, int kWidth>() {
    launch_all_rows(
        context, out.rows, out.cols,
        Lookup<T, Out, kWidth>{
            args.ids_N.data(), {args.vocab_begin, wte.rows}, rows_of<T>(wte), rows_of<Out>(out)});
  };
  if (wte.dtype == DType::bf16 && out.dtype == DType::f32) {
    vectors_fit(out.cols, {wte, out})
        ? look_up.template operator()<bf16, float, kVectorElems<bf16>>()
        : look_up.template operator()<bf16, float, 1>();
    return;
  }
  with_shape(out.cols, {wte, out},
             [&]<typename T, int kWidth>() { look_up.template operator()<T, T, kWidth>(); });
}

}  // namespace elaswave::kernels::cuda
