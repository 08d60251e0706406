#include "tests/support/cuda/fake_cublaslt_product.h"

#include <bit>
#include <vector>

#include "io/base/bf16.h"
#include "tests/support/gelu.h"

namespace elaswave::testing::cublaslt {

namespace {

bool same_layout(const FakeLayout& x, const FakeLayout& y) {
  return x.type == y.type && x.order == y.order && x.rows == y.rows && x.cols == y.cols &&
         x.batch_count == y.batch_count;
}

// cublasLtMatmul(), table "A, B, C, and D data types supported", the rows for these types.
bool supported_types(const Problem& problem) {
  const FakeOperation& operation = problem.operation;
  if (operation.compute != CUBLAS_COMPUTE_32F || operation.scale != CUDA_R_32F) return false;
  if (problem.a.type != problem.b.type || problem.c.type != problem.d.type) return false;
  if (problem.a.type == CUDA_R_32F && problem.d.type != CUDA_R_32F) return false;
  if (operation.epilogue == CUBLASLT_EPILOGUE_DEFAULT) return true;
  if (operation.epilogue == CUBLASLT_EPILOGUE_DGELU)
    return problem.d.type == CUDA_R_16BF && problem.d.order == CUBLASLT_ORDER_COL &&
           problem.d.batch_count == 1 && !fake_cublaslt().lacks_gelu_gradient;
  // "Not supported when D matrix memory order is CUBLASLT_ORDER_ROW"; a bias of D's type.
  return operation.epilogue == CUBLASLT_EPILOGUE_BIAS && problem.d.order == CUBLASLT_ORDER_COL &&
         (operation.bias_type == -1 || operation.bias_type == problem.d.type);
}

float read(const FakeLayout& layout, const std::byte* data, std::int64_t index) {
  if (layout.type == CUDA_R_32F) return reinterpret_cast<const float*>(data)[index];
  return to_float(reinterpret_cast<const bf16*>(data)[index]);
}
void write(const FakeLayout& layout, std::byte* data, std::int64_t index, float value) {
  if (layout.type == CUDA_R_32F)
    reinterpret_cast<float*>(data)[index] = value;
  else
    reinterpret_cast<bf16*>(data)[index] = to_bf16(value);
}

}  // namespace

cublasStatus_t read_problem(cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                            cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                            cublasLtMatrixLayout_t d, Problem& problem) {
  for (const void* part :
       {static_cast<const void*>(operation), static_cast<const void*>(a),
        static_cast<const void*>(b), static_cast<const void*>(c), static_cast<const void*>(d)})
    if (part == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  problem.operation = *fake<FakeOperation>(operation);
  problem.a = *fake<FakeLayout>(a);
  problem.b = *fake<FakeLayout>(b);
  problem.c = *fake<FakeLayout>(c);
  problem.d = *fake<FakeLayout>(d);
  for (const FakeLayout* layout : {&problem.a, &problem.b, &problem.c, &problem.d})
    if (!layout->valid() || layout->batch_count != problem.d.batch_count)
      return CUBLAS_STATUS_INVALID_VALUE;
  const bool flip_a = problem.operation.trans_a != CUBLAS_OP_N;
  const bool flip_b = problem.operation.trans_b != CUBLAS_OP_N;
  problem.m = static_cast<std::int64_t>(flip_a ? problem.a.cols : problem.a.rows);
  problem.k = static_cast<std::int64_t>(flip_a ? problem.a.rows : problem.a.cols);
  problem.n = static_cast<std::int64_t>(flip_b ? problem.b.rows : problem.b.cols);
  const auto inner = static_cast<std::int64_t>(flip_b ? problem.b.cols : problem.b.rows);
  if (inner != problem.k || static_cast<std::int64_t>(problem.d.rows) != problem.m ||
      static_cast<std::int64_t>(problem.d.cols) != problem.n || !same_layout(problem.c, problem.d))
    return CUBLAS_STATUS_INVALID_VALUE;
  // CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: "Must be divisible by 8 and be no less than the number of
  // rows in the output matrix"; CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: default null.
  if (problem.operation.epilogue == CUBLASLT_EPILOGUE_DGELU &&
      (problem.operation.aux == nullptr || problem.operation.aux_ld % 8 != 0 ||
       problem.operation.aux_ld < problem.m))
    return CUBLAS_STATUS_INVALID_VALUE;
  return supported_types(problem) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

bool offered(const Algorithm& algorithm, const Problem& problem, const FakePreference& wish) {
  const auto mask = [&](cublasLtReductionScheme_t scheme) {
    return (wish.reductions & scheme) != 0;
  };
  if (algorithm.kind == FakeAlgorithm::scattered && !mask(CUBLASLT_REDUCTION_SCHEME_INPLACE) &&
      !fake_cublaslt().names_scattered)
    return false;
  if (algorithm.kind == FakeAlgorithm::split && !mask(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE))
    return false;
  if (algorithm.kind != FakeAlgorithm::plain && problem.k < 32) return false;
  for (const std::uint32_t promised : wish.alignment)
    if (promised < algorithm.alignment) return false;
  const auto bias = std::bit_cast<std::uintptr_t>(problem.operation.bias);
  if (problem.operation.epilogue == CUBLASLT_EPILOGUE_BIAS && bias % algorithm.alignment != 0)
    return false;
  // "depend on its value to determine expected pointer alignment"
  const auto aux = std::bit_cast<std::uintptr_t>(problem.operation.aux);
  if (problem.operation.epilogue == CUBLASLT_EPILOGUE_DGELU && aux % algorithm.alignment != 0)
    return false;
  return problem.multiple_of(static_cast<std::uint32_t>(algorithm.alignment)) &&
         algorithm.workspace_bytes(problem) <= wish.workspace_bytes;
}

float Work::sum(std::int64_t batch, std::int64_t row, std::int64_t col, std::int64_t first,
                std::int64_t last) const {
  const Problem& p = problem;
  const bool flip_a = p.operation.trans_a != CUBLAS_OP_N;
  const bool flip_b = p.operation.trans_b != CUBLAS_OP_N;
  float total = 0;
  for (std::int64_t k = first; k < last; ++k)
    total +=
        read(p.a, a, batch * p.a.batch_offset + (flip_a ? p.a.index(k, row) : p.a.index(row, k))) *
        read(p.b, b, batch * p.b.batch_offset + (flip_b ? p.b.index(col, k) : p.b.index(k, col)));
  return total;
}

float Work::product(std::int64_t batch, std::int64_t row, std::int64_t col) const {
  const std::int64_t k = problem.k, half = k / 2;
  if (algorithm.kind == FakeAlgorithm::plain) return sum(batch, row, col, 0, k);
  const float halves[2] = {sum(batch, row, col, 0, half), sum(batch, row, col, half, k)};
  if (algorithm.kind == FakeAlgorithm::split) {  // by way of the workspace: it must be ours
    float* at = workspace + 2 * ((batch * problem.n + col) * problem.m + row);
    at[0] = halves[0];
    at[1] = halves[1];
    return at[0] + at[1];
  }
  // Into the result, as additions happen to come; a rounding of the first shows the order.
  const float first = halves[second_half_first ? 1 : 0] * (1 + 0x1p-20f);
  return first + halves[second_half_first ? 0 : 1];
}

void Work::run() const {
  const Problem& p = problem;
  for (std::int64_t batch = 0; batch < p.d.batch_count; ++batch)
    for (std::int64_t col = 0; col < p.n; ++col)
      for (std::int64_t row = 0; row < p.m; ++row) {
        float value = alpha * product(batch, row, col);
        if (beta != 0)  // otherwise C is not read: it may be anything
          value += beta * read(p.c, c, batch * p.c.batch_offset + p.c.index(row, col));
        if (p.operation.epilogue == CUBLASLT_EPILOGUE_BIAS)
          value += read(p.d, static_cast<const std::byte*>(p.operation.bias),
                        batch * p.operation.bias_batch_stride + row);
        if (p.operation.epilogue == CUBLASLT_EPILOGUE_DGELU)
          value *= gelu_slope(read(p.d, static_cast<const std::byte*>(p.operation.aux),
                                   row + col * p.operation.aux_ld));
        write(p.d, d, batch * p.d.batch_offset + p.d.index(row, col), value);
      }
}

bool pointers_fit(const Work& work, std::size_t workspace_bytes) {
  const Problem& p = work.problem;
  std::vector<const void*> pointers = {work.a, work.b, work.d};
  if (work.beta != 0) pointers.push_back(work.c);
  if (p.operation.epilogue == CUBLASLT_EPILOGUE_BIAS) pointers.push_back(p.operation.bias);
  if (p.operation.epilogue == CUBLASLT_EPILOGUE_DGELU) pointers.push_back(p.operation.aux);
  for (const void* pointer : pointers)
    if (pointer == nullptr ||
        std::bit_cast<std::uintptr_t>(pointer) % work.algorithm.alignment != 0)
      return false;
  if (!p.multiple_of(static_cast<std::uint32_t>(work.algorithm.alignment))) return false;
  return work.algorithm.workspace_bytes(p) <= workspace_bytes &&
         std::bit_cast<std::uintptr_t>(work.workspace) % kWorkspaceAlignment == 0;
}

cublasStatus_t check_algorithm(const Problem& problem, const Algorithm& algorithm) {
  const auto kind = static_cast<std::uint64_t>(algorithm.kind);
  if (algorithm.version != kVersion || kind < 1 || kind > 3) return CUBLAS_STATUS_NOT_SUPPORTED;
  return algorithm.problem == problem.fingerprint() ? CUBLAS_STATUS_SUCCESS
                                                    : CUBLAS_STATUS_INVALID_VALUE;
}

}  // namespace elaswave::testing::cublaslt
