#include "model/kernels/gemm_cuda.h"

#include <cublasLt.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <map>

#include "io/base/hash.h"
#include "io/base/unique.h"
#include "model/kernels/gemm_kernels.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::kernels::cuda {

namespace {

// Grows with every change of how an algorithm is chosen or a product is cut that the numbers in
// Gemm::hash() do not show.
constexpr std::uint64_t kRuleVersion = 1;
// Neither of the two left out: INPLACE orders its additions by who comes first, OUTPUT_TYPE rounds
// partial sums to the result's type.
constexpr std::uint32_t kReductions =
    CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
// What the widest loads of the library's kernels ask for.
constexpr std::int64_t kAlignment = 16;
// The library may list algorithms that do not fit before the first that does.
constexpr int kCandidates = 8;
// Room for a bias comes in units of this, so that one piece of scratch fits all of a model's.
constexpr std::int64_t kBiasUnit = 256 << 10;
constexpr std::int64_t kPieceUnit = 128;  // rows of a product that is cut

void check(cublasStatus_t status, const char* call) {
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

template <typename T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)),
        "cublasLtMatmulDescSetAttribute");
}
template <typename T>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
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

// The stride of a view of one row says nothing and may be too small for the library.
std::int64_t leading(const ConstMat& view) {
  return std::max(view.stride, view.cols);
}

bool aligned(const void* data) {
  return std::bit_cast<std::uintptr_t>(data) % kAlignment == 0;
}
bool aligned(const ConstMat& view) {
  return aligned(view.data) && leading(view) * size_bytes(view.dtype) % kAlignment == 0;
}

// What a plan depends on beside the shape.
struct PlanKey {
  ProductShape shape;
  std::int64_t a_stride = 0, b_stride = 0, c_stride = 0;
  bool aligned = true;  // all operands, the result and the bias
  auto operator<=>(const PlanKey&) const = default;
};

struct Plan {
  Unique<OperationTraits> operation;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm{};
  bool tuned = false;

  AlgorithmWords words() const {
    static_assert(sizeof(AlgorithmWords) == sizeof(cublasLtMatmulAlgo_t));
    return std::bit_cast<AlgorithmWords>(algorithm);
  }
};

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
  }
  return operation;
}

Unique<PreferenceTraits> preference_of(const PlanKey& key) {
  cublasLtMatmulPreference_t created = nullptr;
  check(cublasLtMatmulPreferenceCreate(&created), "cublasLtMatmulPreferenceCreate");
  Unique<PreferenceTraits> preference(created);
  set(created, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
      static_cast<std::uint64_t>(Gemm::kWorkspaceBytes));
  set(created, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kReductions);
  const auto alignment = [&](DType dtype) {
    return static_cast<std::uint32_t>(key.aligned ? kAlignment : size_bytes(dtype));
  };
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(key.shape.inputs));
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(key.shape.inputs));
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(key.shape.result));
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(key.shape.result));
  return preference;
}

// Rows [first, first + count) of the product.
Factors rows_of(const Factors& factors, std::int64_t first, std::int64_t count) {
  Factors part = factors;
  part.M = count;
  part.a = factors.form == ProductForm::tn ? factors.a.cols_from(first, count)
                                           : factors.a.rows_from(first, count);
  return part;
}

}  // namespace

// The library's handle and the plans made with it.
class Gemm::Library {
 public:
  Library(Unique<LibraryTraits> handle, GemmTable table, std::int64_t sink_bytes)
      : handle_(std::move(handle)), table_(std::move(table)), hash_(compute_hash(sink_bytes)) {}

  struct Call {
    const Factors& factors;
    const void* bias = nullptr;  // of the result's type, or null
    std::byte* c = nullptr;
    DType c_dtype = DType::f32;
    std::int64_t c_stride = 0;
    float beta = 0;  // c = product + beta c
  };
  void run(const Call& call, std::byte* workspace, device::CudaStream& stream) {
    stream.device().select();
    const Factors& factors = call.factors;
    const PlanKey key = key_of(call);
    auto found = plans_.find(key);
    if (found == plans_.end()) found = plans_.emplace(key, make_plan(key)).first;
    const Plan& plan = found->second;
    if (call.bias != nullptr)
      set(plan.operation.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, call.bias);
    const float one = 1;
    check(
        cublasLtMatmul(handle_.get(), plan.operation.get(), &one, factors.b.data, plan.b.get(),
                       factors.a.data, plan.a.get(), &call.beta, call.c, plan.c.get(), call.c,
                       plan.c.get(), &plan.algorithm, workspace, kWorkspaceBytes, stream.handle()),
        "cublasLtMatmul");
  }

  std::uint64_t hash() const { return hash_; }
  std::vector<GemmChoice> choices() const {
    std::vector<GemmChoice> list;
    for (const auto& [key, plan] : plans_) list.push_back({key.shape, plan.words(), plan.tuned});
    return list;
  }

 private:
  static PlanKey key_of(const Call& call) {
    const Factors& factors = call.factors;
    const ConstMat c{call.c, call.c_dtype, factors.M, factors.N, call.c_stride};
    return {
        .shape = {factors.form, factors.M, factors.N, factors.K, factors.a.dtype, call.c_dtype,
                  call.bias == nullptr ? Epilogue::none : Epilogue::bias},
        .a_stride = leading(factors.a),
        .b_stride = leading(factors.b),
        .c_stride = leading(c),
        .aligned = aligned(factors.a) && aligned(factors.b) && aligned(c) && aligned(call.bias)};
  }

  Plan make_plan(const PlanKey& key) const {
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
    const AlgorithmWords* row = key.aligned ? table_.find(shape) : nullptr;
    plan.tuned = row != nullptr;
    if (row != nullptr)
      take_tuned(shape, *row, plan);
    else
      take_first(key, plan);
    return plan;
  }

  void take_tuned(const ProductShape& shape, const AlgorithmWords& row, Plan& plan) const {
    plan.algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(row);
    cublasLtMatmulHeuristicResult_t result{};
    const cublasStatus_t status =
        cublasLtMatmulAlgoCheck(handle_.get(), plan.operation.get(), plan.b.get(), plan.a.get(),
                                plan.c.get(), plan.c.get(), &plan.algorithm, &result);
    // Going on with another algorithm would give this rank other bits than its peers.
    EW_CHECK(status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kWorkspaceBytes,
             "the tuned algorithm of {} does not run here: {}, workspace {} bytes", describe(shape),
             cublasLtGetStatusName(status), result.workspaceSize);
  }

  void take_first(const PlanKey& key, Plan& plan) const {
    const Unique<PreferenceTraits> preference = preference_of(key);
    std::array<cublasLtMatmulHeuristicResult_t, kCandidates> results{};
    int count = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle_.get(), plan.operation.get(), plan.b.get(),
                                         plan.a.get(), plan.c.get(), plan.c.get(), preference.get(),
                                         kCandidates, results.data(), &count),
          "cublasLtMatmulAlgoGetHeuristic");
    auto* const end = results.data() + count;
    auto* const first = std::find_if(results.data(), end, [](const auto& result) {
      return result.state == CUBLAS_STATUS_SUCCESS;
    });
    if (first == end)
      throw device::DeviceLost(
          fmt::format("cublasLtMatmulAlgoGetHeuristic: none for {}", describe(key.shape)));
    plan.algorithm = first->algo;
  }

  // The products of GPT-2 124M on 1,024 tokens stand for all: a library or driver that chooses
  // differently shows in some of them.
  std::uint64_t compute_hash(std::int64_t sink_bytes) const {
    std::uint64_t hash = combine64(kRuleVersion, table_.hash());
    for (const std::int64_t value : {kWorkspaceBytes, sink_bytes, kPieceUnit, kSumRows, kSumLanes})
      hash = combine64(hash, static_cast<std::uint64_t>(value));
    constexpr std::int64_t kTokens = 1024, kHidden = 768;
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const std::int64_t features : {kHidden, 3 * kHidden, 4 * kHidden})
        for (const ProductShape& shape :
             {ProductShape{ProductForm::nn, kTokens, features, kHidden, dtype, dtype,
                           Epilogue::bias},
              ProductShape{ProductForm::nt, kTokens, kHidden, features, dtype, dtype},
              ProductShape{ProductForm::tn, kHidden, features, kTokens, dtype, DType::f32}})
          hash = hash_choice(hash, shape, dense_plan(shape).words());
    return hash;
  }
  Plan dense_plan(const ProductShape& shape) const {
    return make_plan({.shape = shape,
                      .a_stride = shape.form == ProductForm::tn ? shape.M : shape.K,
                      .b_stride = shape.form == ProductForm::nt ? shape.K : shape.N,
                      .c_stride = shape.N});
  }

  Unique<LibraryTraits> handle_;
  GemmTable table_;
  std::map<PlanKey, Plan> plans_;
  std::uint64_t hash_;
};

Factors factors(ProductForm form, const ConstMat& a, const ConstMat& b) {
  for (const ConstMat& view : {a, b})
    EW_CHECK(view.rows <= 1 || view.stride >= view.cols, "stride {} below {} columns", view.stride,
             view.cols);
  const std::int64_t M = form == ProductForm::tn ? a.cols : a.rows;
  const std::int64_t K = form == ProductForm::tn ? a.rows : a.cols;
  const std::int64_t N = form == ProductForm::nt ? b.rows : b.cols;
  const std::int64_t b_inner = form == ProductForm::nt ? b.cols : b.rows;
  EW_CHECK(K == b_inner && K > 0 && M > 0 && N > 0 && a.dtype == b.dtype,
           "a product of {} x {} ({}) and {} x {} ({}), form {}", a.rows, a.cols, name(a.dtype),
           b.rows, b.cols, name(b.dtype), static_cast<int>(form));
  return {form, a, b, M, N, K};
}

Gemm::Gemm(std::unique_ptr<Library> library, std::int64_t sink_bytes)
    : library_(std::move(library)), sink_bytes_(sink_bytes) {}
Gemm::~Gemm() = default;

Result<std::unique_ptr<Gemm>> Gemm::create(device::CudaDevice& device, std::string_view table_rows,
                                           std::int64_t sink_bytes) {
  EW_ASSIGN(GemmTable table, GemmTable::parse(table_rows, cublasLtGetVersion(), device.name()));
  device.select();  // the handle belongs to it
  cublasLtHandle_t created = nullptr;
  const cublasStatus_t status = cublasLtCreate(&created);
  if (status != CUBLAS_STATUS_SUCCESS)
    return fail({Code::unavailable, "the matrix library cuBLASLt does not start", "",
                 fmt::format("cublasLtCreate: {}", cublasLtGetStatusName(status)),
                 "check that the driver and the CUDA libraries belong together"});
  return std::unique_ptr<Gemm>(new Gemm(
      std::make_unique<Library>(Unique<LibraryTraits>(created), std::move(table), sink_bytes),
      sink_bytes));
}

void Gemm::multiply(const CudaContext& context, const Factors& factors, const Mat& c,
                    std::span<const float> bias_N) {
  EW_CHECK(c.rows == factors.M && c.cols == factors.N, "a {} x {} product stored as {} x {}",
           factors.M, factors.N, c.rows, c.cols);
  EW_CHECK(c.dtype == DType::f32 || c.dtype == factors.a.dtype, "a product of {} stored as {}",
           name(factors.a.dtype), name(c.dtype));
  EW_CHECK(bias_N.empty() || static_cast<std::int64_t>(bias_N.size()) == factors.N,
           "a bias of {} for {} columns", bias_N.size(), factors.N);
  // One piece of scratch: the workspace and after it the rounded bias.
  const std::int64_t bias_bytes = round_up(factors.N * size_bytes(c.dtype), kBiasUnit);
  auto* workspace =
      context.scratch.device<std::byte>(ScratchUse::product, kWorkspaceBytes + bias_bytes);
  const void* bias = bias_N.empty() ? nullptr : bias_N.data();
  if (bias != nullptr && c.dtype == DType::bf16) {
    round_to_bf16(context, bias_N, workspace + kWorkspaceBytes);
    bias = workspace + kWorkspaceBytes;
  }
  library_->run(
      {.factors = factors, .bias = bias, .c = c.data, .c_dtype = c.dtype, .c_stride = c.stride},
      workspace, context.stream);
}

void Gemm::multiply_into_sink(const CudaContext& context, const Factors& factors,
                              const GradSink& sink) {
  const std::int64_t N = factors.N;
  check_sink(sink, factors.M * N);
  auto* workspace = context.scratch.device<std::byte>(ScratchUse::product, kWorkspaceBytes);
  const auto product_to = [&](const Factors& part, float* c_MN, float beta) {
    library_->run(
        {.factors = part, .c = reinterpret_cast<std::byte*>(c_MN), .c_stride = N, .beta = beta},
        workspace, context.stream);
  };
  if (sink.fast != nullptr) {
    product_to(factors, sink.fast, sink.overwrite ? 0.0f : 1.0f);
    flag_non_finite(context, sink);
    return;
  }
  const std::int64_t most_rows =
      std::max<std::int64_t>(1, sink_bytes_ / (N * static_cast<std::int64_t>(sizeof(float))));
  // Even pieces; whole tiles, and as columns of a stored A they begin as well aligned as A.
  const std::int64_t rows = std::min(
      factors.M, round_up(ceil_div(factors.M, ceil_div(factors.M, most_rows)), kPieceUnit));
  float* product_MN = context.scratch.device<float>(ScratchUse::weight_sum, rows * N);
  for (std::int64_t first = 0; first < factors.M; first += rows) {
    const Factors part = rows_of(factors, first, std::min(rows, factors.M - first));
    product_to(part, product_MN, 0);
    add_to_exact_sink(context, sink, first * N, product_MN, part.M * N);
  }
}

std::uint64_t Gemm::library_version() const {
  return cublasLtGetVersion();
}
std::uint64_t Gemm::hash() const {
  return library_->hash();
}
std::vector<GemmChoice> Gemm::choices() const {
  return library_->choices();
}

}  // namespace elaswave::kernels::cuda
