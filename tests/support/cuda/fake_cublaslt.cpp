#include "tests/support/cuda/fake_cublaslt.h"

#include <cublasLt.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <source_location>

#include "tests/support/cuda/emulator.h"
#include "tests/support/cuda/fake_cublaslt_product.h"

using namespace elaswave::testing::cublaslt;  // NOLINT(google-build-using-namespace): of this fake
using elaswave::testing::fake_cublaslt;
using elaswave::testing::FakeAlgorithm;

struct cublasLtContext {
  std::uint32_t scattered_calls = 0;
};

namespace {

template <typename Fake, typename Opaque>
Fake* create(Opaque** handle) {
  auto* made = new Fake();
  *handle = made;
  ++fake_cublaslt().alive;
  return made;
}
template <typename Fake, typename Opaque>
cublasStatus_t destroy(Opaque* handle) {
  if (handle == nullptr) return CUBLAS_STATUS_SUCCESS;
  delete fake<Fake>(handle);
  --fake_cublaslt().alive;
  return CUBLAS_STATUS_SUCCESS;
}

template <typename T>
cublasStatus_t assign(T& field, const void* value, std::size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

elaswave::testing::FakeCublasLt& elaswave::testing::fake_cublaslt() {
  static FakeCublasLt state;
  return state;
}

size_t cublasLtGetVersion() {
  return kVersion;
}

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
      return "another status";
  }
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (fake_cublaslt().fail_create.exchange(false)) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = new cublasLtContext();
  ++fake_cublaslt().alive;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  --fake_cublaslt().alive;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* handle, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  auto* layout = create<FakeLayout>(handle);
  layout->type = type;
  layout->rows = rows;
  layout->cols = cols;
  layout->ld = ld;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t handle) {
  return destroy<FakeLayout>(handle);
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t handle,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t bytes) {
  auto* layout = fake<FakeLayout>(handle);
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return assign(layout->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return assign(layout->batch_count, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return assign(layout->batch_offset, value, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* handle, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  auto* operation = create<FakeOperation>(handle);
  operation->compute = compute;
  operation->scale = scale;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t handle) {
  return destroy<FakeOperation>(handle);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  auto* operation = fake<FakeOperation>(handle);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
      return assign(operation->pointer_mode, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return assign(operation->trans_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return assign(operation->trans_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return assign(operation->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return assign(operation->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
      return assign(operation->bias_batch_stride, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return assign(operation->aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return assign(operation->aux_ld, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return assign(operation->bias_type, value, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* handle) {
  create<FakePreference>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t handle) {
  return destroy<FakePreference>(handle);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  auto* preference = fake<FakePreference>(handle);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
      return assign(preference->search, value, bytes);
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return assign(preference->workspace_bytes, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return assign(preference->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return assign(preference->alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return assign(preference->alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return assign(preference->alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return assign(preference->alignment[3], value, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* count) {
  *count = 0;
  if (fake_cublaslt().fail_heuristic.exchange(false)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (wanted <= 0 || preference == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  Problem problem;
  if (const cublasStatus_t status = read_problem(operation, a, b, c, d, problem);
      status != CUBLAS_STATUS_SUCCESS)
    return status;
  const FakePreference& wish = *fake<FakePreference>(preference);
  const auto elem =
      static_cast<std::uint64_t>(std::min(problem.a.elem_bytes(), problem.d.elem_bytes()));
  for (const std::uint64_t alignment : {std::uint64_t{kFastAlignment}, elem})
    for (const FakeAlgorithm kind :
         {FakeAlgorithm::scattered, FakeAlgorithm::split, FakeAlgorithm::plain}) {
      const Algorithm algorithm{kind, alignment, problem.fingerprint()};
      if (*count == wanted || !offered(algorithm, problem, wish)) continue;
      cublasLtMatmulHeuristicResult_t& result = results[(*count)++];
      result = {};
      result.algo = std::bit_cast<cublasLtMatmulAlgo_t>(algorithm);
      result.workspaceSize = algorithm.workspace_bytes(problem);
      result.state = CUBLAS_STATUS_SUCCESS;
      result.wavesCount = 1;
    }
  if (*count == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  ++fake_cublaslt().heuristics;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algo,
                                       cublasLtMatmulHeuristicResult_t* result) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  Problem problem;
  cublasStatus_t status = read_problem(operation, a, b, c, d, problem);
  const auto algorithm = std::bit_cast<Algorithm>(*algo);
  if (status == CUBLAS_STATUS_SUCCESS) status = check_algorithm(problem, algorithm);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (problem.b.ld == fake_cublaslt().refuses_stride) return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = algorithm.workspace_bytes(problem);
  result->state = CUBLAS_STATUS_SUCCESS;
  ++fake_cublaslt().checks;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (fake_cublaslt().fail_matmul.exchange(false)) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  Work work;
  cublasStatus_t status =
      read_problem(operation, a_layout, b_layout, c_layout, d_layout, work.problem);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  // Without an algorithm the library asks its heuristics: no product of ours may depend on that.
  if (algo == nullptr || alpha == nullptr || beta == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (work.problem.operation.pointer_mode != CUBLASLT_POINTER_MODE_HOST)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  work.algorithm = std::bit_cast<Algorithm>(*algo);
  status = check_algorithm(work.problem, work.algorithm);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  work.alpha = *static_cast<const float*>(alpha);
  work.beta = *static_cast<const float*>(beta);
  work.a = static_cast<const std::byte*>(a);
  work.b = static_cast<const std::byte*>(b);
  work.c = static_cast<const std::byte*>(c);
  work.d = static_cast<std::byte*>(d);
  work.workspace = static_cast<float*>(workspace);
  work.second_half_first = handle->scattered_calls++ % 2 != 0;
  if (!pointers_fit(work, workspace_bytes)) return CUBLAS_STATUS_INVALID_VALUE;
  if (static_cast<std::uint64_t>(work.algorithm.kind) == fake_cublaslt().fails)
    return CUBLAS_STATUS_EXECUTION_FAILED;
  const cudaError_t queued = elaswave::emulator::enqueue_kernel(
      stream,
      {.grid = dim3(1), .body = [work] { work.run(); }, .at = std::source_location::current()});
  if (queued != cudaSuccess) return CUBLAS_STATUS_EXECUTION_FAILED;
  const auto kind = static_cast<std::size_t>(work.algorithm.kind);
  for (std::int64_t idle = fake_cublaslt().idle_kernels[kind]; idle > 0; --idle)
    if (elaswave::emulator::enqueue_kernel(
            stream, {.grid = dim3(1), .body = [] {}, .at = std::source_location::current()}) !=
        cudaSuccess)
      return CUBLAS_STATUS_EXECUTION_FAILED;
  ++fake_cublaslt().matmuls;
  return CUBLAS_STATUS_SUCCESS;
}
