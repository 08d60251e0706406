// What tests of the head share: a case with everything one call reads and writes, and the textbook
// head. Shape letters as in ops.h: N tokens, C hidden, V vocabulary.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "model/kernels/linear_cpu.h"
#include "tests/support/kernel_testing.h"

namespace elaswave::kernels {

using namespace elaswave::testing;

inline std::vector<std::int32_t> random_targets(std::int64_t N, std::int64_t V) {
  std::vector<std::int32_t> targets(static_cast<std::size_t>(N));
  for (std::size_t i = 0; i < targets.size(); ++i)
    targets[i] = static_cast<std::int32_t>(random_word(random_stream(3, RandomUse::test), i) % V);
  targets.front() = 0;
  targets.back() = static_cast<std::int32_t>(V - 1);
  return targets;
}

// Everything one call reads and writes.
struct Head {
  Head(std::int64_t tokens, std::int64_t hidden, std::int64_t vocabulary, float weight_scale = 0.5f)
      : N(tokens),
        C(hidden),
        V(vocabulary),
        x(random_values(N * C, "x"), N, C, 3),
        w(random_values(V * C, "w", weight_scale), V, C, 1),
        dx(N, C, 2),
        targets(random_targets(N, V)),
        loss(static_cast<std::size_t>(N), -1),
        dw(static_cast<std::size_t>(V * C), 777) {}

  HeadLoss args() {
    return {
        .x_NC = x.view(),
        .w_VC = w.view(),
        .targets_N = targets,
        .loss_N = loss,
        .scale = scale,
        .dx_NC = dx.view(),
        .dw_VC = {
            .exact = dw.data(), .elems = V * C, .overwrite = true, .limit = 1024, .flag = &flag}};
  }
  HeadLoss loss_only() {
    HeadLoss result = args();
    result.dx_NC = {};
    result.dw_VC = {};
    return result;
  }

  std::int64_t N, C, V;
  float scale = 1;
  PaddedMat x, w, dx;
  std::vector<std::int32_t> targets;
  std::vector<float> loss;
  std::vector<std::int64_t> dw;
  RangeFlag flag;
};

template <typename T>
struct Reference {
  std::vector<T> loss_N, dx_NC, dw_VC;
};

// Textbook head and loss in T, no chunks: softmax minus one-hot, two products.
template <typename T>
Reference<T> reference(const Head& head) {
  const std::vector<T> x = as<T>(head.x.dense()), w = as<T>(head.w.dense());
  const std::int64_t N = head.N, C = head.C, V = head.V;
  std::vector<T> logits = naive_product<T>(x, C, 1, w, 1, C, N, V, C);
  Reference<T> result;
  for (std::int64_t n = 0; n < N; ++n) {
    T* row = logits.data() + n * V;
    const std::int32_t target = head.targets[static_cast<std::size_t>(n)];
    const T largest = *std::max_element(row, row + V);
    const T shifted = row[target] - largest;
    T sum = 0;
    for (std::int64_t v = 0; v < V; ++v) sum += std::exp(row[v] - largest);
    result.loss_N.push_back(std::log(sum) - shifted);
    for (std::int64_t v = 0; v < V; ++v)
      row[v] = static_cast<T>(head.scale) *
               (std::exp(row[v] - largest) / sum - (v == target ? T{1} : T{0}));
  }
  result.dx_NC = naive_product<T>(logits, V, 1, w, C, 1, N, C, V);
  result.dw_VC = naive_product<T>(logits, 1, V, x, C, 1, V, C, N);
  return result;
}

}  // namespace elaswave::kernels
