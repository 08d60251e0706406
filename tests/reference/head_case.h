// What tests of the head share: a case with everything one call reads and writes, and the textbook
// head. Shape letters as in ops.h: N tokens, C hidden, V vocabulary.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/reference/kernel_test.h"

namespace elaswave::kernels {

inline std::vector<std::int32_t> random_targets(std::int64_t N, std::int64_t V) {
  std::vector<std::int32_t> targets(static_cast<std::size_t>(N));
  for (std::size_t i = 0; i < targets.size(); ++i)
    targets[i] = static_cast<std::int32_t>(random_word(random_stream(3, RandomUse::test), i) % V);
  targets.front() = 0;
  targets.back() = static_cast<std::int32_t>(V - 1);
  return targets;
}

struct HeadShape {
  std::int64_t N, C, V;
  float weight_scale = 0.5f;
  std::int64_t chunk_tokens = 256;
};

// Everything one call reads and writes; sums start at 777.
struct Head {
  Head(const Place& at, const HeadShape& shape)
      : place(at),
        N(shape.N),
        C(shape.C),
        V(shape.V),
        chunk_tokens(shape.chunk_tokens),
        x_values(testing::stored(random_values(N * C, "x"), at.dtype)),
        w_values(testing::stored(random_values(V * C, "w", shape.weight_scale), at.dtype)),
        targets_values(random_targets(N, V)),
        x(at, x_values, N, C, 3),
        w(at, w_values, V, C, 1),
        dx(at, N, C, 2),
        targets(at.stream, targets_values),
        loss(at.stream, N, -1.0f),
        dw(at.stream, V * C, 777) {}

  HeadLoss args() {
    return {.x_NC = x.view(),
            .w_VC = w.view(),
            .targets_N = targets,
            .loss_N = loss,
            .scale = scale,
            .dx_NC = dx.mat(),
            .dw_VC = dw.sink(true),
            .chunk_tokens = chunk_tokens};
  }
  HeadLoss loss_only() {
    HeadLoss result = args();
    result.dx_NC = {};
    result.dw_VC = {};
    return result;
  }

  Place place;
  std::int64_t N, C, V, chunk_tokens;
  float scale = 1;
  std::vector<float> x_values, w_values;
  std::vector<std::int32_t> targets_values;
  Padded x, w, dx;
  DeviceVector<std::int32_t> targets;
  DeviceVector<float> loss;
  Sums dw;
};

template <typename T>
struct HeadReference {
  std::vector<T> loss_N, dx_NC, dw_VC;
};

// dx of the slices of the vocabulary that begin at cuts[i], each stored, added in slice order.
template <typename T>
std::vector<T> input_gradient(const Head& head, const std::vector<T>& dlogits,
                              const std::vector<T>& w, const std::vector<std::int64_t>& cuts) {
  std::vector<T> dx(static_cast<std::size_t>(head.N * head.C));
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    const auto begin = static_cast<std::size_t>(cuts[i]);
    const std::vector<T> term =
        naive_product<T>(std::span(dlogits).subspan(begin), head.V, 1,
                         std::span(w).subspan(begin * static_cast<std::size_t>(head.C)), head.C, 1,
                         head.N, head.C, cuts[i + 1] - cuts[i]);
    for (std::size_t j = 0; j < dx.size(); ++j) dx[j] += stored(term[j], head.place.dtype);
  }
  return dx;
}

// Textbook head and loss in T, no chunks: softmax minus one-hot, two products. The plain version of
// kernels that store bf16 is that in f32, with what goes into the products and dx rounded.
template <typename T>
HeadReference<T> head_reference(const Head& head, const std::vector<std::int64_t>& cuts) {
  const std::vector<T> x = converted<T>(head.x_values), w = converted<T>(head.w_values);
  const std::int64_t N = head.N, C = head.C, V = head.V;
  std::vector<T> logits = naive_product<T>(x, C, 1, w, 1, C, N, V, C);
  HeadReference<T> result;
  for (std::int64_t n = 0; n < N; ++n) {
    T* row = logits.data() + n * V;
    const std::int32_t target = head.targets_values[static_cast<std::size_t>(n)];
    const T largest = *std::max_element(row, row + V);
    const T shifted = row[target] - largest;
    T sum = 0;
    for (std::int64_t v = 0; v < V; ++v) sum += std::exp(row[v] - largest);
    result.loss_N.push_back(std::log(sum) - shifted);
    for (std::int64_t v = 0; v < V; ++v)
      row[v] = stored(static_cast<T>(head.scale) *
                          (std::exp(row[v] - largest) / sum - (v == target ? T{1} : T{0})),
                      head.place.dtype);
  }
  result.dx_NC = input_gradient(head, logits, w, cuts);
  result.dw_VC = naive_product<T>(logits, 1, V, x, C, 1, V, C, N);
  return result;
}
template <typename T>
HeadReference<T> head_reference(const Head& head) {
  return head_reference<T>(head, {0, head.V});
}

}  // namespace elaswave::kernels
