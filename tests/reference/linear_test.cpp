// Linear layers against double precision. Shape letters as in ops.h: N tokens, C features in, D
// features out.
#include <cmath>
#include <limits>
#include <vector>

#include "tests/reference/kernel_test.h"
#include "tests/support/gelu.h"

namespace elaswave::kernels {
namespace {

struct Shape {
  std::int64_t N, C, D, extra;
};

// y = x W + b with gradients for dy, in T; b is of size D, or empty.
template <typename T>
struct Plain {
  Plain(const Shape& shape, DType dtype, const std::vector<T>& x, const std::vector<T>& w,
        const std::vector<T>& b, const std::vector<T>& dy) {
    const auto& [N, C, D, extra] = shape;
    y = naive_product<T>(x, C, 1, w, D, 1, N, D, C);
    dx = naive_product<T>(dy, D, 1, w, 1, D, N, C, D);
    dw = naive_product<T>(x, 1, C, dy, D, 1, C, D, N);
    db.resize(static_cast<std::size_t>(D));
    for (std::size_t i = 0; i < y.size(); ++i) {
      db[i % db.size()] += dy[i];
      y[i] = stored(b.empty() ? y[i] : y[i] + b[i % b.size()], dtype);
    }
    for (T& value : dx) value = stored(value, dtype);
  }
  std::vector<T> y, dx, dw, db;
};

struct Inputs {
  Inputs(const Shape& of, DType type)
      : shape(of),
        dtype(type),
        x(stored(random_values(of.N * of.C, "x"), type)),
        w(stored(random_values(of.C * of.D, "w"), type)),
        b(random_values(of.D, "b")),
        dy(stored(random_values(of.N * of.D, "dy"), type)) {}
  Plain<double> reference() const {
    return {shape,
            dtype,
            converted<double>(x),
            converted<double>(w),
            converted<double>(b),
            converted<double>(dy)};
  }
  /// A plain version rounds what the backend rounds (Backend::rounds_biases).
  Plain<float> plain(const testing::Backend& backend) const {
    return {shape, dtype, x, w, backend.rounds_biases() ? stored(b, dtype) : b, dy};
  }

  Shape shape;
  DType dtype;
  std::vector<float> x, w, b, dy;
};

// The layer of some inputs in device memory. Sums start at 777.
struct Layer {
  Layer(const Place& at, const Inputs& in)
      : stream(at.stream),
        x(at, in.x, in.shape.N, in.shape.C, in.shape.extra),
        w(at, in.w, in.shape.C, in.shape.D, 3 * in.shape.extra),
        dy(at, in.dy, in.shape.N, in.shape.D, in.shape.extra),
        y(at, in.shape.N, in.shape.D, 2 * in.shape.extra),
        dx(at, in.shape.N, in.shape.C, in.shape.extra),
        b(at.stream, in.b),
        dw(at.stream, in.shape.C * in.shape.D, 777),
        db(at.stream, in.shape.D, 777) {}
  void outputs(Ops& ops) {
    ops.linear_forward(stream, {x.view(), w.view(), b, y.mat()});
    ops.linear_backward_input(stream, {dy.view(), w.view(), dx.mat()});
  }
  void sums(Ops& ops, bool overwrite) {
    ops.linear_backward_weight(stream,
                               {x.view(), dy.view(), dw.sink(overwrite), db.sink(overwrite)});
  }
  void fast_sums(Ops& ops, bool overwrite) {
    ops.linear_backward_weight(
        stream, {x.view(), dy.view(), dw.fast_sink(overwrite), db.fast_sink(overwrite)});
  }

  Stream& stream;
  Padded x, w, dy, y, dx;
  DeviceVector<float> b;
  Sums dw, db;
};

class LinearTest : public StorageTest {};
EW_FOR_STORAGE_TYPES(LinearTest);

TEST_P(LinearTest, matches_reference) {
  for (const Shape& shape :
       {Shape{1, 1, 1, 0}, Shape{113, 37, 203, 0}, Shape{113, 37, 203, 3}, Shape{37, 203, 113, 1},
        Shape{64, 128, 256, 0}, Shape{257, 1031, 130, 3}, Shape{300, 49, 500, 0}}) {
    SCOPED_TRACE(::testing::Message() << shape.N << " " << shape.C << " " << shape.D);
    const Inputs in(shape, dtype());
    const auto reference = in.reference();
    const auto plain = in.plain(backend());
    Layer layer(place(), in);
    layer.outputs(ops());
    layer.sums(ops(), true);
    expect_accurate("y", layer.y.values(), plain.y, reference.y);
    expect_accurate("dx", layer.dx.values(), plain.dx, reference.dx);
    expect_accurate("dW", layer.dw.values(), plain.dw, reference.dw);
    expect_accurate("db", layer.db.values(), plain.db, reference.db);
    EXPECT_TRUE(layer.y.guards_intact() && layer.dx.guards_intact());
    EXPECT_FALSE(layer.dw.raised() || layer.db.raised());
  }
}

// In f32 whatever its operands are: a term of a sum over slices, rounded when the sum is whole.
TEST_P(LinearTest, terms_are_not_rounded) {
  const Inputs in({113, 64, 72, 0}, dtype());
  const Layer layer(place(), in);
  const Place f32 = {stream(), DType::f32};
  Padded y(f32, in.shape.N, in.shape.D, 2), dx(f32, in.shape.N, in.shape.C, 0);
  ops().linear_forward(stream(), {layer.x.view(), layer.w.view(), layer.b, y.mat()});
  ops().linear_backward_input(stream(), {layer.dy.view(), layer.w.view(), dx.mat()});
  const Plain<float> plain(in.shape, DType::f32, in.x, in.w, in.b, in.dy);
  expect_accurate("y", y.values(), plain.y, in.reference().y);
  expect_accurate("dx", dx.values(), plain.dx, in.reference().dx);
  EXPECT_TRUE(y.guards_intact());
}

// The gradient of the layer's input as the gradient of what an activation before it read. The plain
// version stores the product before it multiplies it with slopes.
TEST_P(LinearTest, gelu_slopes_match_reference) {
  for (const Shape& shape : {Shape{1, 1, 1, 0}, Shape{113, 37, 203, 0}, Shape{113, 40, 203, 3},
                             Shape{64, 128, 256, 0}, Shape{65, 136, 72, 8}}) {
    SCOPED_TRACE(::testing::Message() << shape.N << " " << shape.C << " " << shape.D);
    const Inputs in(shape, dtype());
    std::vector<double> reference = in.reference().dx;
    std::vector<float> plain = in.plain(backend()).dx;
    const std::vector<float> at = stored(random_floats(shape.N * shape.C, 9, 2.0f));
    for (std::size_t i = 0; i < at.size(); ++i) {
      reference[i] *= testing::gelu_slope(static_cast<double>(at[i]));
      plain[i] = stored(plain[i] * testing::gelu_slope(at[i]));
    }
    Layer layer(place(), in);
    const Padded gelu_x(place(), at, shape.N, shape.C, 2 * shape.extra);
    ops().linear_backward_input(stream(),
                                {layer.dy.view(), layer.w.view(), layer.dx.mat(), gelu_x.view()});
    expect_accurate("dx", layer.dx.values(), plain, reference);
    EXPECT_TRUE(layer.dx.guards_intact());
  }
}

TEST(LinearReference, gradient_is_the_derivative) {
  const Inputs in({9, 7, 11, 0}, DType::f32);
  const auto x = converted<double>(in.x), w = converted<double>(in.w), b = converted<double>(in.b),
             r = converted<double>(in.dy);
  const auto value = [&](const std::vector<double>& xs, const std::vector<double>& ws,
                         const std::vector<double>& bs) {
    const Plain<double> layer(in.shape, in.dtype, xs, ws, bs, r);
    double sum = 0;
    for (std::size_t i = 0; i < r.size(); ++i) sum += layer.y[i] * r[i];
    return sum;
  };
  const auto gradient = in.reference();
  expect_gradient("x", x, gradient.dx, [&](const auto& at) { return value(at, w, b); });
  expect_gradient("w", w, gradient.dw, [&](const auto& at) { return value(x, at, b); });
  expect_gradient("b", b, gradient.db, [&](const auto& at) { return value(x, w, at); });
}

TEST_P(LinearTest, bias_is_optional) {
  Inputs in({113, 64, 72, 0}, dtype());
  in.b.clear();
  Layer layer(place(), in);
  layer.outputs(ops());
  expect_accurate("y", layer.y.values(), in.plain(backend()).y, in.reference().y);
  ops().linear_backward_weight(stream(),
                               {layer.x.view(), layer.dy.view(), layer.dw.sink(true), GradSink{}});
  expect_accurate("dW", layer.dw.values(), in.plain(backend()).dw, in.reference().dw);
}

TEST_P(LinearTest, same_bits_on_every_stream) {
  expect_same_for_streams([&](Stream& stream, std::int64_t extra) {
    const Inputs in({272, 768, 400, extra}, dtype());
    Layer layer(on(stream), in);
    layer.outputs(ops());
    layer.sums(ops(), true);
    return bytes_of(layer.y.values(), layer.dx.values(), layer.dw.exact(), layer.db.exact());
  });
}

// An exact addend is the fast one rounded to the grid once; a second addend doubles either.
TEST_P(LinearTest, sums_are_of_rounded_products) {
  Layer layer(place(), Inputs({300, 113, 203, 0}, dtype()));
  for (const bool overwrite : {true, false}) {
    layer.sums(ops(), overwrite);
    layer.fast_sums(ops(), overwrite);
    for (const auto& [exact, fast] : {std::pair(layer.dw.exact(), layer.dw.fast()),
                                      std::pair(layer.db.exact(), layer.db.fast())})
      for (std::size_t i = 0; i < exact.size(); ++i) {
        // Doubling is exact, so half of what the second call left is what the first one did.
        const double addend = static_cast<double>(fast[i]) * (overwrite ? 1 : 0.5);
        ASSERT_EQ(exact[i], std::llrint(addend * 0x1p40) * (overwrite ? 1 : 2)) << i;
      }
  }
  EXPECT_FALSE(layer.dw.raised() || layer.db.raised());
}

TEST_P(LinearTest, the_flag_is_raised_and_kept) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {infinity, std::numeric_limits<float>::quiet_NaN(), 1e6f}) {
    SCOPED_TRACE(bad);
    const Inputs in({20, 130, 210, 0}, dtype());
    Layer exact(place(), in), fast(place(), in);
    for (Layer* layer : {&exact, &fast}) layer->dy.set(19, 209, bad);
    exact.sums(ops(), true);
    fast.fast_sums(ops(), true);
    EXPECT_TRUE(exact.dw.raised() && exact.db.raised());
    EXPECT_EQ(fast.dw.raised(), !std::isfinite(bad));
    EXPECT_EQ(fast.db.raised(), !std::isfinite(bad));
    EXPECT_EQ(exact.db.exact()[209], 0);
    exact.dy.set(19, 209, 0);
    exact.sums(ops(), true);
    EXPECT_TRUE(exact.dw.raised() && exact.db.raised()) << "the flag is never cleared";
  }
}

}  // namespace
}  // namespace elaswave::kernels
