#include "model/kernels/sdpa_ops.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "io/base/error.h"

namespace elaswave::kernels {

namespace {

class Builder {
 public:
  explicit Builder(const SdpaShape& shape) : shape_(shape) {
    EW_CHECK(shape.B > 0 && shape.T > 0 && shape.H > 0 && shape.D > 0, "attention of shape {}",
             shape.text());
  }

  // A head's rows of packed memory: [B, H, T, D].
  SdpaIndex rows(std::string_view name, SdpaBinding binding, std::int64_t stride) {
    return memory(name, binding, SdpaType::bf16, {shape_.B, shape_.H, shape_.T, shape_.D},
                  {shape_.T * stride, shape_.D, stride, 1});
  }
  // The same memory as [B, H, D, T], to stand on the right of a product.
  SdpaIndex columns(std::string_view name, SdpaBinding binding, std::int64_t stride) {
    return memory(name, binding, SdpaType::bf16, {shape_.B, shape_.H, shape_.D, shape_.T},
                  {shape_.T * stride, shape_.D, 1, stride});
  }
  // One f32 for each query: [B, H, T, 1].
  SdpaIndex queries(std::string_view name, SdpaBinding binding) {
    return memory(name, binding, SdpaType::f32, query_dims(), dense(query_dims()));
  }
  SdpaIndex scalar(std::string_view name, float value) {
    return tensor({.name = name,
                   .place = SdpaPlace::scalar,
                   .dims = {1, 1, 1, 1},
                   .strides = {1, 1, 1, 1},
                   .value = value});
  }

  SdpaDims score_dims() const { return {shape_.B, shape_.H, shape_.T, shape_.T}; }
  SdpaDims query_dims() const { return {shape_.B, shape_.H, shape_.T, 1}; }

  // Appends an operation that writes a new inner tensor, and returns that.
  SdpaIndex inner(std::string_view name, SdpaOp op, const SdpaDims& dims,
                  SdpaType type = SdpaType::f32) {
    return inner(name, op, dims, dense(dims), type);
  }
  SdpaIndex inner(std::string_view name, SdpaOp op, const SdpaDims& dims, const SdpaDims& strides,
                  SdpaType type) {
    op.y = tensor({.name = name, .type = type, .dims = dims, .strides = strides});
    graph_.ops.push_back(op);
    return op.y;
  }
  // Scores and what has their shape.
  SdpaIndex scores(std::string_view name, const SdpaOp& op, SdpaType type = SdpaType::f32) {
    return inner(name, op, score_dims(), type);
  }
  void into(SdpaIndex y, SdpaOp op) {
    op.y = y;
    graph_.ops.push_back(op);
  }

  // Scores with minus infinity where the key comes after the query.
  SdpaIndex causal(SdpaIndex scores_in, SdpaIndex minus_infinity) {
    const SdpaIndex query =
        scores("query", {.kind = SdpaKind::index, .a = scores_in, .axis = 2}, SdpaType::i32);
    const SdpaIndex key =
        scores("key", {.kind = SdpaKind::index, .a = scores_in, .axis = 3}, SdpaType::i32);
    const SdpaIndex mask =
        scores("mask", {.kind = SdpaKind::greater_equal, .a = query, .b = key}, SdpaType::boolean);
    return scores("masked",
                  {.kind = SdpaKind::select, .a = scores_in, .b = minus_infinity, .mask = mask});
  }
  // [B, H, T, T] with its last two dimensions swapped, of the type that products read.
  SdpaIndex transposed(std::string_view name, SdpaIndex a) {
    const std::int64_t T = shape_.T;
    return inner(name, {.kind = SdpaKind::reinterpret, .a = a}, score_dims(),
                 {shape_.H * T * T, T * T, 1, T}, SdpaType::bf16);
  }

  float scale() const { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape_.D))); }
  SdpaGraph finish() { return std::move(graph_); }

 private:
  static SdpaDims dense(const SdpaDims& dims) {
    return {dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1};
  }
  SdpaIndex memory(std::string_view name, SdpaBinding binding, SdpaType type, const SdpaDims& dims,
                   const SdpaDims& strides) {
    return tensor({.name = name,
                   .place = SdpaPlace::memory,
                   .binding = binding,
                   .type = type,
                   .dims = dims,
                   .strides = strides});
  }
  SdpaIndex tensor(const SdpaTensor& tensor) {
    graph_.tensors.push_back(tensor);
    return std::ssize(graph_.tensors) - 1;
  }

  const SdpaShape& shape_;
  SdpaGraph graph_;
};

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

}  // namespace

SdpaShape SdpaShape::dense(std::int64_t B, std::int64_t T, std::int64_t H, std::int64_t D) {
  return {B, T, H, D, 3 * H * D, H * D, H * D, 3 * H * D};
}

std::string SdpaShape::text() const {
  return fmt::format("b{} t{} h{} d{}", B, T, H, D);
}

SdpaIndex SdpaGraph::find(SdpaBinding binding) const {
  for (SdpaIndex i = 0; i < std::ssize(tensors); ++i) {
    const SdpaTensor& tensor = tensors[static_cast<std::size_t>(i)];
    if (tensor.place == SdpaPlace::memory && tensor.binding == binding) return i;
  }
  return kNoTensor;
}

SdpaGraph sdpa_forward(const SdpaShape& shape) {
  using enum SdpaKind;
  Builder build(shape);
  const SdpaIndex q = build.rows("q", SdpaBinding::q, shape.qkv_stride);
  const SdpaIndex k = build.columns("k", SdpaBinding::k, shape.qkv_stride);
  const SdpaIndex v = build.rows("v", SdpaBinding::v, shape.qkv_stride);
  const SdpaIndex out = build.rows("out", SdpaBinding::out, shape.out_stride);
  const SdpaIndex lse = build.queries("lse", SdpaBinding::lse);
  const SdpaIndex scale = build.scalar("scale", build.scale());
  const SdpaIndex minus_infinity = build.scalar("minus_infinity", kMinusInfinity);
  const SdpaDims per_query = build.query_dims();

  const SdpaIndex product = build.scores("product", {.kind = matmul, .a = q, .b = k});
  const SdpaIndex scaled = build.scores("scaled", {.kind = multiply, .a = product, .b = scale});
  const SdpaIndex masked = build.causal(scaled, minus_infinity);
  const SdpaIndex top = build.inner("top", {.kind = reduce_max, .a = masked}, per_query);
  const SdpaIndex below = build.scores("below", {.kind = subtract, .a = masked, .b = top});
  const SdpaIndex power = build.scores("power", {.kind = exp, .a = below});
  const SdpaIndex sum = build.inner("sum", {.kind = reduce_add, .a = power}, per_query);
  const SdpaIndex log_sum = build.inner("log_sum", {.kind = log, .a = sum}, per_query);
  build.into(lse, {.kind = add, .a = log_sum, .b = top});
  const SdpaIndex p = build.scores("p", {.kind = divide, .a = power, .b = sum}, SdpaType::bf16);
  build.into(out, {.kind = matmul, .a = p, .b = v});
  return build.finish();
}

SdpaGraph sdpa_backward(const SdpaShape& shape) {
  using enum SdpaKind;
  Builder build(shape);
  const SdpaIndex q = build.rows("q", SdpaBinding::q, shape.qkv_stride);
  const SdpaIndex k = build.columns("k", SdpaBinding::k, shape.qkv_stride);
  const SdpaIndex v = build.columns("v", SdpaBinding::v, shape.qkv_stride);
  const SdpaIndex out = build.rows("out", SdpaBinding::out, shape.out_stride);
  const SdpaIndex lse = build.queries("lse", SdpaBinding::lse);
  const SdpaIndex dout = build.rows("dout", SdpaBinding::dout, shape.dout_stride);
  const SdpaIndex dq = build.rows("dq", SdpaBinding::dq, shape.dqkv_stride);
  const SdpaIndex dk = build.rows("dk", SdpaBinding::dk, shape.dqkv_stride);
  const SdpaIndex dv = build.rows("dv", SdpaBinding::dv, shape.dqkv_stride);
  const SdpaIndex row_sums = build.queries("row_sums", SdpaBinding::row_sums);
  const SdpaIndex scale = build.scalar("scale", build.scale());
  const SdpaIndex one = build.scalar("one", 1);
  const SdpaIndex minus_infinity = build.scalar("minus_infinity", kMinusInfinity);
  const SdpaDims rows = {shape.B, shape.H, shape.T, shape.D};

  // row_sums = sum over D of dout * out. The factor of one belongs to the pattern that cuDNN 9.19
  // fuses: without it the plan keeps three matrices of scores in memory instead of one.
  const SdpaIndex weighed = build.inner("weighed", {.kind = multiply, .a = dout, .b = out}, rows);
  const SdpaIndex weight =
      build.inner("weight", {.kind = reduce_add, .a = weighed}, build.query_dims());
  build.into(row_sums, {.kind = multiply, .a = weight, .b = one});

  const SdpaIndex product = build.scores("product", {.kind = matmul, .a = q, .b = k});
  const SdpaIndex scaled = build.scores("scaled", {.kind = multiply, .a = product, .b = scale});
  const SdpaIndex below = build.scores("below", {.kind = subtract, .a = scaled, .b = lse});
  const SdpaIndex masked = build.causal(below, minus_infinity);
  const SdpaIndex p = build.scores("p", {.kind = exp, .a = masked});

  build.into(dv, {.kind = matmul, .a = build.transposed("p_t", p), .b = dout});

  const SdpaIndex dp = build.scores("dp", {.kind = matmul, .a = dout, .b = v});
  const SdpaIndex centred = build.scores("centred", {.kind = subtract, .a = dp, .b = row_sums});
  const SdpaIndex dscaled = build.scores("dscaled", {.kind = multiply, .a = centred, .b = p});
  const SdpaIndex ds =
      build.scores("ds", {.kind = multiply, .a = dscaled, .b = scale}, SdpaType::bf16);

  build.into(dk, {.kind = matmul, .a = build.transposed("ds_t", ds), .b = q});
  const SdpaIndex k_rows =
      build.inner("k_rows", {.kind = reinterpret, .a = k}, rows,
                  {shape.T * shape.qkv_stride, shape.D, shape.qkv_stride, 1}, SdpaType::bf16);
  build.into(dq, {.kind = matmul, .a = ds, .b = k_rows});
  return build.finish();
}

std::int64_t sdpa_row_sums_bytes(const SdpaShape& shape) {
  return shape.B * shape.H * shape.T * size_bytes(DType::f32);
}

}  // namespace elaswave::kernels
