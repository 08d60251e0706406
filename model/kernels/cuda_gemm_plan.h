// How a product is described to cuBLASLt, and the algorithm that it gets. Internal to the products
// of the CUDA backend. THREADS: one at a time.
#pragma once

#include <cublasLt.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "io/base/unique.h"
#include "model/kernels/gemm_table.h"
#include "parallel/device/buffer.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::kernels::cuda {

using device::ConstMat;

// What the widest loads of the library's kernels ask for.
inline constexpr std::int64_t kAlignment = 16;

/// Throws DeviceLost, with the name of the call and what the library said.
inline void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw device::DeviceLost(fmt::format("{}: {}", call, cublasLtGetStatusName(status)));
}

struct LibraryTraits {
  using handle_type = cublasLtHandle_t;
  static handle_type null() { return nullptr; }
  static void release(handle_type handle) { (void)cublasLtDestroy(handle); }
};
struct OperationTraits {
  using handle_type = cublasLtMatmulDesc_t;
  static handle_type null() { return nullptr; }
  static void release(handle_type handle) { (void)cublasLtMatmulDescDestroy(handle); }
};
struct LayoutTraits {
  using handle_type = cublasLtMatrixLayout_t;
  static handle_type null() { return nullptr; }
  static void release(handle_type handle) { (void)cublasLtMatrixLayoutDestroy(handle); }
};
struct PreferenceTraits {
  using handle_type = cublasLtMatmulPreference_t;
  static handle_type null() { return nullptr; }
  static void release(handle_type handle) { (void)cublasLtMatmulPreferenceDestroy(handle); }
};
using Layout = Unique<LayoutTraits>;

/// Sets what an operation reads when it is issued.
template <typename T>
inline void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
                const T& value) {
  check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)),
        "cublasLtMatmulDescSetAttribute");
}

// The stride of a view of one row says nothing and may be too small for the library.
inline std::int64_t leading(const ConstMat& view) {
  return std::max(view.stride, view.cols);
}

inline bool aligned(const void* data) {
  return std::bit_cast<std::uintptr_t>(data) % kAlignment == 0;
}
inline bool aligned(const ConstMat& view) {
  return aligned(view.data) && leading(view) * size_bytes(view.dtype) % kAlignment == 0;
}

// What a plan depends on beside the shape.
struct PlanKey {
  ProductShape shape;
  std::int64_t a_stride = 0, b_stride = 0, c_stride = 0, slope_stride = 0;
  bool aligned = true;  // all operands, the result, the bias and what slopes are taken at
  auto operator<=>(const PlanKey&) const = default;
};

/// As the library takes it. Pointers are those of the call that is issued next.
struct Plan {
  Unique<OperationTraits> operation;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm{};
  bool tuned = false, none = false;  // none: the library has no algorithm

  AlgorithmWords words() const {
    static_assert(sizeof(AlgorithmWords) == sizeof(cublasLtMatmulAlgo_t));
    return std::bit_cast<AlgorithmWords>(algorithm);
  }
};

/// A plan without an algorithm.
Plan empty_plan(const PlanKey& key);
/// What the library names for the plan's product under the conditions of training, its own choice
/// first, at most `most`; none where an epilogue that need not be is not there. Throws DeviceLost.
std::vector<cublasLtMatmulAlgo_t> named_algorithms(cublasLtHandle_t library, const PlanKey& key,
                                                   const Plan& plan, int most);

/// Why an algorithm cannot compute a plan's product.
struct Refusal {
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  std::size_t workspace_bytes = 0;
  bool any() const;
};
Refusal refusal_of(cublasLtHandle_t library, const Plan& plan,
                   const cublasLtMatmulAlgo_t& algorithm);

/// The row of the table, if the shape has one and all is aligned, or the library's first choice
/// under fixed conditions. An epilogue without which a caller can do may come to Plan::none;
/// otherwise throws DeviceLost when the library has no algorithm.
Plan make_plan(cublasLtHandle_t library, const GemmTable& table, const PlanKey& key);

}  // namespace elaswave::kernels::cuda
