// The functions of cuBLASLt that the product calls, on the CPU, through the emulator's streams: a
// product is queued with the kernels and computed when its turn comes. Linked instead of the
// library. It refuses what the library's documentation says it refuses or leaves undefined
// (alignments, sizes, types, a workspace too small), so that a wrong set-up shows without a GPU.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace elaswave::testing {

/// What a test may plant and ask. THREADS: any.
struct FakeCublasLt {
  /// The next call of one of these returns CUBLAS_STATUS_EXECUTION_FAILED (matmul) or
  /// CUBLAS_STATUS_NOT_SUPPORTED (heuristic), CUBLAS_STATUS_NOT_INITIALIZED (create), once.
  std::atomic<bool> fail_matmul{false}, fail_heuristic{false}, fail_create{false};
  /// A library without an algorithm for the gradient of GELU.
  std::atomic<bool> lacks_gelu_gradient{false};
  /// Names `scattered` among the algorithms although nobody asked for such: a library that breaks
  /// its word.
  std::atomic<bool> names_scattered{false};
  /// The check of an algorithm refuses a second operand (our first) with rows so far apart.
  std::atomic<std::int64_t> refuses_stride{0};
  /// Products by this FakeAlgorithm fail; 0: none.
  std::atomic<std::uint64_t> fails{0};
  /// Kernels that do nothing behind each product, by FakeAlgorithm: they take time.
  std::array<std::atomic<std::int64_t>, 4> idle_kernels{};
  /// Counts of calls that succeeded.
  std::atomic<std::int64_t> matmuls{0}, heuristics{0}, checks{0};
  /// Handles, descriptors, layouts and preferences that exist.
  std::atomic<std::int64_t> alive{0};
};
FakeCublasLt& fake_cublaslt();

/// What the fake's algorithms add to a product's words: for tests of the tuned table.
enum class FakeAlgorithm : std::uint64_t {
  plain = 1,      // sums over k in order
  split = 2,      // halves of k in the workspace, added in order (COMPUTE_TYPE)
  scattered = 3,  // halves of k added in an order that changes from call to call (INPLACE)
};

}  // namespace elaswave::testing
