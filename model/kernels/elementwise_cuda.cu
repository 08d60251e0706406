#include "model/kernels/cuda_rows.h"

namespace elaswave::kernels::cuda {

namespace {

// 0.5 (1 + tanh u) = 1 / (1 + e^-2u), as on the CPU: the same function without the cancellation of
// 1 + tanh u for negative u.
constexpr float kTwoRootTwoOverPi = 1.59576912160573071f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

__device__ float minus_two_u(float x) {
  return -kTwoRootTwoOverPi * x * __fmaf_rn(kCubic * x, x, 1.0f);
}

// The hardware's own exponential is good to some 2^-20 of a value that bf16 then keeps 2^-9 of.
template <typename T>
__device__ float exponential(float x) {
  if constexpr (sizeof(T) == 2)
    return __expf(x);
  else
    return expf(x);
}

template <typename T, int kWidth>
struct Gelu {
  static constexpr int kElems = kWidth;
  Rows<const T> x;
  Rows<T> y;

  struct Loaded {
    float x[kWidth];
  };
  __device__ Loaded load(const Place& place) const {
    Loaded in;
    cuda::load(x.at(place.row, place.col), in.x);
    return in;
  }
  __device__ void store(const Place& place, const Loaded& in) const {
    float out[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i)
      out[i] = in.x[i] / (1.0f + exponential<T>(minus_two_u(in.x[i])));
    cuda::store(y.at(place.row, place.col), out);
  }
};

template <typename T, int kWidth>
struct GeluGradient {
  static constexpr int kElems = kWidth;
  Rows<const T> x, dy;
  Rows<T> dx;

  struct Loaded {
    float x[kWidth], dy[kWidth];
  };
  __device__ Loaded load(const Place& place) const {
    Loaded in;
    cuda::load(x.at(place.row, place.col), in.x);
    cuda::load(dy.at(place.row, place.col), in.dy);
    return in;
  }
  static __device__ float slope(float unbounded) {
    // Beyond 16 the slope is 0 or 1 to f32; the bounds on x and on the exponent keep its factors
    // finite. Comparisons let a NaN through, where fminf would not.
    const float x = unbounded > 16.0f ? 16.0f : unbounded < -16.0f ? -16.0f : unbounded;
    const float e = exponential<T>(fminf(87.0f, minus_two_u(x)));
    const float s = 1.0f / (1.0f + e);
    const float two_du = kTwoRootTwoOverPi * __fmaf_rn(3 * kCubic * x, x, 1.0f);
    return __fmaf_rn(x * s * (e * s), two_du, s);
  }
  __device__ void store(const Place& place, const Loaded& in) const {
    float out[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) out[i] = in.dy[i] * slope(in.x[i]);
    cuda::store(dx.at(place.row, place.col), out);
  }
};

// out = residual + mask * in, or mask * in alone.
template <typename T, int kWidth, bool kResidual, bool kDropout>
struct AddMasked {
  static constexpr int kElems = kWidth;
  Rows<const T> residual, in;
  Rows<T> out;
  std::uint32_t C;
  RowMasks<kDropout> masks;

  struct Loaded {
    float residual[kResidual ? kWidth : 1], in[kWidth];
  };
  __device__ Loaded load(const Place& place) const {
    Loaded loaded;
    if constexpr (kResidual) cuda::load(residual.at(place.row, place.col), loaded.residual);
    cuda::load(in.at(place.row, place.col), loaded.in);
    return loaded;
  }
  __device__ void store(const Place& place, Loaded& loaded) const {
    masks.apply(place, C, loaded.in);
    if constexpr (kResidual) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) loaded.in[i] = __fadd_rn(loaded.residual[i], loaded.in[i]);
    }
    cuda::store(out.at(place.row, place.col), loaded.in);
  }
};

void check_same_shape(const ConstMat& a, const ConstMat& b) {
  EW_CHECK(a.rows == b.rows && a.cols == b.cols, "{} x {} beside {} x {}", a.rows, a.cols, b.rows,
           b.cols);
}

template <bool kDropout>
void add_masked(const CudaContext& context, const ResidualForward& args) {
  const ConstMat &residual = args.residual_NC, &branch = args.branch_NC;
  const std::int64_t C = branch.cols;
  with_shape(C, {residual, branch, args.out_NC}, [&]<typename T, int kWidth>() {
    for_stretches<kDropout>(
        branch.rows, C, args.T, args.row_begin, args.dropout,
        [&](std::int64_t first, std::int64_t count, const RowMasks<kDropout>& masks) {
          launch_rows(context, first, count, C,
                      AddMasked<T, kWidth, true, kDropout>{rows_of<T>(residual), rows_of<T>(branch),
                                                           rows_of<T>(args.out_NC),
                                                           static_cast<std::uint32_t>(C), masks});
        });
  });
}

template <bool kDropout>
void mask_only(const CudaContext& context, const ResidualBackward& args) {
  const std::int64_t C = args.dout_NC.cols;
  with_shape(C, {args.dout_NC, args.dbranch_NC}, [&]<typename T, int kWidth>() {
    for_stretches<kDropout>(
        args.dout_NC.rows, C, args.T, args.row_begin, args.dropout,
        [&](std::int64_t first, std::int64_t count, const RowMasks<kDropout>& masks) {
          launch_rows(context, first, count, C,
                      AddMasked<T, kWidth, false, kDropout>{{},
                                                            rows_of<T>(args.dout_NC),
                                                            rows_of<T>(args.dbranch_NC),
                                                            static_cast<std::uint32_t>(C),
                                                            masks});
        });
  });
}

}  // namespace

void gelu_forward(const CudaContext& context, const GeluForward& args) {
  check_same_shape(args.x, args.y);
  with_shape(args.x.cols, {args.x, args.y}, [&]<typename T, int kWidth>() {
    launch_all_rows(context, args.x.rows, args.x.cols,
                    Gelu<T, kWidth>{rows_of<T>(args.x), rows_of<T>(args.y)});
  });
}

void gelu_backward(const CudaContext& context, const GeluBackward& args) {
  check_same_shape(args.x, args.dy);
  check_same_shape(args.x, args.dx);
  with_shape(args.x.cols, {args.x, args.dy, args.dx}, [&]<typename T, int kWidth>() {
    launch_all_rows(
        context, args.x.rows, args.x.cols,
        GeluGradient<T, kWidth>{rows_of<T>(args.x), rows_of<T>(args.dy), rows_of<T>(args.dx)});
  });
}

void residual_forward(const CudaContext& context, const ResidualForward& args) {
  check_same_shape(args.residual_NC, args.branch_NC);
  check_same_shape(args.residual_NC, args.out_NC);
  args.dropout.rate == 0 ? add_masked<false>(context, args) : add_masked<true>(context, args);
}

void residual_backward(const CudaContext& context, const ResidualBackward& args) {
  check_same_shape(args.dout_NC, args.dbranch_NC);
  if (args.dropout.rate == 0 && args.dout_NC.data == args.dbranch_NC.data) return;
  args.dropout.rate == 0 ? mask_only<false>(context, args) : mask_only<true>(context, args);
}

}  // namespace elaswave::kernels::cuda
