// What a product of the fake cuBLASLt is made of. Internal to it. The library's opaque handles
// point to these structures; each begins with the library's own.
#pragma once

#include <cublasLt.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "io/base/hash.h"
#include "tests/support/cuda/fake_cublaslt.h"

namespace elaswave::testing::cublaslt {

inline constexpr std::uint64_t kVersion = CUBLAS_VERSION;
inline constexpr std::uintptr_t kWorkspaceAlignment =
    256;  // cublasLtMatmul(): "must be 256B aligned"
inline constexpr std::uint32_t kFastAlignment = 16;

struct FakeLayout : cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type{};
  std::int32_t order = CUBLASLT_ORDER_COL;
  std::uint64_t rows = 0, cols = 0;
  std::int64_t ld = 0;
  std::int32_t batch_count = 1;
  std::int64_t batch_offset = 0;

  std::int64_t elem_bytes() const { return type == CUDA_R_16BF ? 2 : 4; }
  std::int64_t index(std::int64_t row, std::int64_t col) const {
    return order == CUBLASLT_ORDER_ROW ? row * ld + col : row + col * ld;
  }
  bool valid() const {
    const auto least = static_cast<std::int64_t>(order == CUBLASLT_ORDER_ROW ? cols : rows);
    return (type == CUDA_R_16BF || type == CUDA_R_32F) &&
           (order == CUBLASLT_ORDER_ROW || order == CUBLASLT_ORDER_COL) && rows > 0 && cols > 0 &&
           rows <= INT32_MAX && cols <= INT32_MAX && ld >= least && batch_count >= 1;
  }
  bool multiple_of(std::uint32_t bytes) const {
    return ld * elem_bytes() % bytes == 0 && batch_offset * elem_bytes() % bytes == 0;
  }
};

struct FakeOperation : cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute{};
  cudaDataType_t scale{};
  std::int32_t pointer_mode = CUBLASLT_POINTER_MODE_HOST;
  std::int32_t trans_a = CUBLAS_OP_N, trans_b = CUBLAS_OP_N;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  std::int64_t bias_batch_stride = 0;
  std::int32_t bias_type = -1;  // the result's
  const void* aux = nullptr;    // of the result's type
  std::int64_t aux_ld = 0;
};

struct FakePreference : cublasLtMatmulPreferenceOpaque_t {
  std::uint64_t workspace_bytes = 0;
  std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::uint32_t search = CUBLASLT_SEARCH_BEST_FIT;
  std::array<std::uint32_t, 4> alignment = {256, 256, 256, 256};  // of A, B, C, D
};

template <typename Fake, typename Opaque>
Fake* fake(Opaque* opaque) {
  return static_cast<Fake*>(opaque);
}

// One product as the library sees it: D = alpha op(A) op(B) + beta C, m x n x k.
struct Problem {
  FakeOperation operation;
  FakeLayout a, b, c, d;
  std::int64_t m = 0, n = 0, k = 0;

  std::uint64_t fingerprint() const {
    std::uint64_t hash = 0;
    for (const std::int64_t value :
         {m, n, k, static_cast<std::int64_t>(a.type), static_cast<std::int64_t>(d.type),
          static_cast<std::int64_t>(operation.trans_a),
          static_cast<std::int64_t>(operation.trans_b),
          static_cast<std::int64_t>(operation.epilogue)})
      hash = combine64(hash, static_cast<std::uint64_t>(value));
    return hash;
  }
  bool multiple_of(std::uint32_t bytes) const {
    return a.multiple_of(bytes) && b.multiple_of(bytes) && c.multiple_of(bytes) &&
           d.multiple_of(bytes);
  }
};

// How the fake writes an algorithm into the library's structure.
struct Algorithm {
  FakeAlgorithm kind = FakeAlgorithm::plain;
  std::uint64_t alignment = 0;  // bytes, of pointers and leading dimensions
  std::uint64_t problem = 0;    // fingerprint
  std::uint64_t version = kVersion;
  std::array<std::uint64_t, 4> unused{};

  std::size_t workspace_bytes(const Problem& p) const {
    return kind == FakeAlgorithm::split
               ? static_cast<std::size_t>(2 * p.m * p.n * p.d.batch_count) * sizeof(float)
               : 0;
  }
};
static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t));

// Everything that cublasLtMatmul() was given, for later.
struct Work {
  Problem problem;
  Algorithm algorithm;
  float alpha = 1, beta = 0;
  const std::byte *a = nullptr, *b = nullptr, *c = nullptr;
  std::byte* d = nullptr;
  float* workspace = nullptr;
  bool second_half_first = false;

  void run() const;

 private:
  float sum(std::int64_t batch, std::int64_t row, std::int64_t col, std::int64_t first,
            std::int64_t last) const;
  float product(std::int64_t batch, std::int64_t row, std::int64_t col) const;
};

/// The status with which the library refuses the combination, or success and `problem`.
cublasStatus_t read_problem(cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                            cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                            cublasLtMatrixLayout_t d, Problem& problem);
/// Would the heuristics name this algorithm?
bool offered(const Algorithm& algorithm, const Problem& problem, const FakePreference& wish);
/// Does the algorithm belong to this version and problem?
cublasStatus_t check_algorithm(const Problem& problem, const Algorithm& algorithm);
/// Are all pointers, leading dimensions and the workspace as the algorithm needs them?
bool pointers_fit(const Work& work, std::size_t workspace_bytes);

}  // namespace elaswave::testing::cublaslt
