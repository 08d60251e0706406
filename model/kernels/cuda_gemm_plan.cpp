#include "model/kernels/cuda_gemm_plan.h"

#include <bit>
#include <vector>

#include "model/kernels/gemm_cuda.h"

namespace elaswave::kernels::cuda {

namespace {

// Neither of the two left out: INPLACE orders its additions by who comes first, OUTPUT_TYPE rounds
// partial sums to the result's type.
constexpr std::uint32_t kReductions =
    CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
// The library may list algorithms that do not fit before the first that does.
constexpr int kCandidates = 8;

template <typename T>
void prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
            const T& value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
        "cublasLtMatmulPreferenceSetAttribute");
}

cudaDataType_t library_type(DType dtype) {
  return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

// The library counts by columns: to it a row-major matrix is its own transpose, and C = A B reads
// C^T = B^T A^T. Its first operand is therefore our second.
Layout layout_of(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(cublasLtMatrixLayoutCreate(&layout, library_type(dtype), static_cast<std::uint64_t>(cols),
                                   static_cast<std::uint64_t>(rows), stride),
        "cublasLtMatrixLayoutCreate");
  return Layout(layout);
}

// The operation without its pointers. The library guesses the bias' alignment from its address, so
// the plan gives it an address of the class instead of this call's.
Unique<OperationTraits> operation_of(const PlanKey& key) {
  cublasLtMatmulDesc_t created = nullptr;
  // 32F, not FAST_TF32 and the like: f32 inputs are multiplied as f32.
  check(cublasLtMatmulDescCreate(&created, CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "cublasLtMatmulDescCreate");
  Unique<OperationTraits> operation(created);
  const ProductShape& shape = key.shape;
  set(created, CUBLASLT_MATMUL_DESC_TRANSA,
      shape.form == ProductForm::nt ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(created, CUBLASLT_MATMUL_DESC_TRANSB,
      shape.form == ProductForm::tn ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (shape.epilogue == Epilogue::bias) {
    const std::int64_t alignment = key.aligned ? kAlignment : size_bytes(shape.result);
    set(created, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(created, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<std::uintptr_t>(alignment));
  } else if (shape.epilogue == Epilogue::dgelu) {  // of the tanh form, at values of D's type
    set(created, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DGELU);
    set(created, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER,
        static_cast<std::uintptr_t>(kAlignment));
    set(created, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, key.slope_stride);
  }
  return operation;
}

Unique<PreferenceTraits> preference_of(const PlanKey& key) {
  cublasLtMatmulPreference_t created = nullptr;
  check(cublasLtMatmulPreferenceCreate(&created), "cublasLtMatmulPreferenceCreate");
  Unique<PreferenceTraits> preference(created);
  prefer(created, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
         static_cast<std::uint64_t>(Gemm::kWorkspaceBytes));
  prefer(created, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kReductions);
  const auto alignment = [&](DType dtype) {
    return static_cast<std::uint32_t>(key.aligned ? kAlignment : size_bytes(dtype));
  };
  prefer(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(key.shape.inputs));
  prefer(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(key.shape.inputs));
  prefer(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(key.shape.result));
  prefer(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(key.shape.result));
  return preference;
}

}  // namespace

bool Refusal::any() const {
  return status != CUBLAS_STATUS_SUCCESS || workspace_bytes > Gemm::kWorkspaceBytes;
}

Refusal refusal_of(cublasLtHandle_t library, const Plan& plan,
                   const cublasLtMatmulAlgo_t& algorithm) {
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(library, plan.operation.get(), plan.b.get(), plan.a.get(),
                              plan.c.get(), plan.c.get(), &algorithm, &result);
  return {status, result.workspaceSize};
}

std::vector<cublasLtMatmulAlgo_t> named_algorithms(cublasLtHandle_t library, const PlanKey& key,
                                                   const Plan& plan, int most) {
  const Unique<PreferenceTraits> preference = preference_of(key);
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(most));
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      library, plan.operation.get(), plan.b.get(), plan.a.get(), plan.c.get(), plan.c.get(),
      preference.get(), most, results.data(), &count);
  if (key.shape.epilogue != Epilogue::dgelu || status != CUBLAS_STATUS_NOT_SUPPORTED)
    check(status, "cublasLtMatmulAlgoGetHeuristic");
  std::vector<cublasLtMatmulAlgo_t> named;
  for (int i = 0; i < count; ++i)
    if (results[static_cast<std::size_t>(i)].state == CUBLAS_STATUS_SUCCESS)
      named.push_back(results[static_cast<std::size_t>(i)].algo);
  return named;
}

Plan empty_plan(const PlanKey& key) {
  const ProductShape& shape = key.shape;
  const bool a_transposed = shape.form == ProductForm::tn;
  const bool b_transposed = shape.form == ProductForm::nt;
  Plan plan;
  plan.operation = operation_of(key);
  plan.a = layout_of(shape.inputs, a_transposed ? shape.K : shape.M,
                     a_transposed ? shape.M : shape.K, key.a_stride);
  plan.b = layout_of(shape.inputs, b_transposed ? shape.N : shape.K,
                     b_transposed ? shape.K : shape.N, key.b_stride);
  plan.c = layout_of(shape.result, shape.M, shape.N, key.c_stride);
  return plan;
}

Plan make_plan(cublasLtHandle_t library, const GemmTable& table, const PlanKey& key) {
  Plan plan = empty_plan(key);
  const AlgorithmWords* row = key.aligned ? table.find(key.shape) : nullptr;
  plan.tuned = row != nullptr;
  if (row != nullptr) {
    plan.algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(*row);
    const Refusal refusal = refusal_of(library, plan, plan.algorithm);
    // Going on with another algorithm would give this rank other bits than its peers.
    EW_CHECK(!refusal.any(), "the tuned algorithm of {} does not run here: {}, workspace {} bytes",
             describe(key.shape), cublasLtGetStatusName(refusal.status), refusal.workspace_bytes);
    return plan;
  }
  const std::vector<cublasLtMatmulAlgo_t> named = named_algorithms(library, key, plan, kCandidates);
  plan.none = named.empty();
  if (plan.none && key.shape.epilogue != Epilogue::dgelu)
    throw device::DeviceLost(
        fmt::format("cublasLtMatmulAlgoGetHeuristic: none for {}", describe(key.shape)));
  if (!plan.none) plan.algorithm = named.front();
  return plan;
}

}  // namespace elaswave::kernels::cuda
