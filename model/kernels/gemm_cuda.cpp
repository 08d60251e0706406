#include "model/kernels/gemm_cuda.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "io/base/hash.h"
#include "model/kernels/cuda_gemm_plan.h"
#include "model/kernels/gemm_kernels.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::kernels::cuda {

namespace {

// Grows with every change of how an algorithm is chosen or a product is cut that the numbers in
// Gemm::hash() do not show.
constexpr std::uint64_t kRuleVersion = 2;
// Room for a bias comes in units of this, so that one piece of scratch fits all of a model's.
constexpr std::int64_t kBiasUnit = 256 << 10;
constexpr std::int64_t kPieceUnit = 128;  // rows of a product that is cut

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
    const void* bias = nullptr;   // of the result's type, or null
    const ConstMat* slopes_at{};  // of the result's shape and type, or null
    std::byte* c = nullptr;
    DType c_dtype = DType::f32;
    std::int64_t c_stride = 0;
    float beta = 0;  // c = product + beta c
  };
  /// False where the library has no algorithm and need not have one.
  bool run(const Call& call, std::byte* workspace, device::CudaStream& stream) {
    stream.device().select();
    const Factors& factors = call.factors;
    const Plan& plan = made(key_of(call));
    if (plan.none) return false;
    if (call.slopes_at != nullptr)
      set(plan.operation.get(), CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, call.slopes_at->data);
    if (call.bias != nullptr)
      set(plan.operation.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, call.bias);
    const float one = 1;
    check(
        cublasLtMatmul(handle_.get(), plan.operation.get(), &one, factors.b.data, plan.b.get(),
                       factors.a.data, plan.a.get(), &call.beta, call.c, plan.c.get(), call.c,
                       plan.c.get(), &plan.algorithm, workspace, kWorkspaceBytes, stream.handle()),
        "cublasLtMatmul");
    return true;
  }

  std::uint64_t hash() const { return hash_; }
  std::vector<GemmChoice> choices() const {
    std::vector<GemmChoice> list;
    for (const auto& [key, plan] : plans_)
      if (!plan.none)
        list.push_back({key.shape, key.a_stride, key.b_stride, key.c_stride, key.slope_stride,
                        key.aligned, plan.words(), plan.tuned});
    return list;
  }

  std::vector<AlgorithmWords> candidates(const GemmChoice& product, int most) const {
    const PlanKey key = key_of(product);
    std::vector<AlgorithmWords> list;
    for (const cublasLtMatmulAlgo_t& algorithm :
         named_algorithms(handle_.get(), key, empty_plan(key), most))
      list.push_back(std::bit_cast<AlgorithmWords>(algorithm));
    return list;
  }
  bool take(const GemmChoice& product, const AlgorithmWords& words) {
    Plan& plan = made(key_of(product));
    const auto algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(words);
    if (refusal_of(handle_.get(), plan, algorithm).any()) return false;
    plan.algorithm = algorithm;
    return true;
  }

 private:
  static PlanKey key_of(const GemmChoice& product) {
    return {product.shape,    product.a_stride,     product.b_stride,
            product.c_stride, product.slope_stride, product.aligned};
  }
  Plan& made(const PlanKey& key) {
    auto found = plans_.find(key);
    if (found == plans_.end())
      found = plans_.emplace(key, make_plan(handle_.get(), table_, key)).first;
    return found->second;
  }

  static PlanKey key_of(const Call& call) {
    const Factors& factors = call.factors;
    const ConstMat c{call.c, call.c_dtype, factors.M, factors.N, call.c_stride};
    return {.shape = {factors.form, factors.M, factors.N, factors.K, factors.a.dtype, call.c_dtype,
                      call.slopes_at != nullptr ? Epilogue::dgelu
                      : call.bias != nullptr    ? Epilogue::bias
                                                : Epilogue::none},
            .a_stride = leading(factors.a),
            .b_stride = leading(factors.b),
            .c_stride = leading(c),
            .slope_stride = call.slopes_at == nullptr ? 0 : leading(*call.slopes_at),
            .aligned = aligned(factors.a) && aligned(factors.b) && aligned(c) &&
                       aligned(call.bias) &&
                       (call.slopes_at == nullptr || aligned(*call.slopes_at))};
  }

  // The products of GPT-2 124M on 1,024 tokens stand for all: a library or driver that chooses
  // differently shows in some of them.
  std::uint64_t compute_hash(std::int64_t sink_bytes) const {
    std::uint64_t hash = combine64(kRuleVersion, table_.hash());
    for (const std::int64_t value :
         {kWorkspaceBytes, sink_bytes, kPieceUnit, kSumRows, kSumLanes, kCudaLossChunkTokens})
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
    // Zeros, where there is none.
    const ProductShape slopes{ProductForm::nt, kTokens,     4 * kHidden,    kHidden,
                              DType::bf16,     DType::bf16, Epilogue::dgelu};
    return hash_choice(hash, slopes, dense_plan(slopes).words());
  }
  Plan dense_plan(const ProductShape& shape) const {
    return make_plan(handle_.get(), table_,
                     {.shape = shape,
                      .a_stride = shape.form == ProductForm::tn ? shape.M : shape.K,
                      .b_stride = shape.form == ProductForm::nt ? shape.K : shape.N,
                      .c_stride = shape.N,
                      .slope_stride = shape.epilogue == Epilogue::dgelu ? shape.N : 0});
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

bool Gemm::multiply_gelu_gradient(const CudaContext& context, const Factors& factors, const Mat& c,
                                  const ConstMat& x) {
  EW_CHECK(c.rows == factors.M && c.cols == factors.N && x.rows == c.rows && x.cols == c.cols,
           "a {} x {} product stored as {} x {} with slopes at {} x {}", factors.M, factors.N,
           c.rows, c.cols, x.rows, x.cols);
  const std::initializer_list<ConstMat> all = {factors.a, factors.b, c, x};
  if (!std::ranges::all_of(
          all, [](const ConstMat& view) { return view.dtype == DType::bf16 && aligned(view); }))
    return false;
  auto* workspace = context.scratch.device<std::byte>(ScratchUse::product, kWorkspaceBytes);
  return library_->run(
      {.factors = factors, .slopes_at = &x, .c = c.data, .c_dtype = c.dtype, .c_stride = c.stride},
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
std::vector<AlgorithmWords> Gemm::candidates(const GemmChoice& product, int most) const {
  return library_->candidates(product, most);
}
bool Gemm::take(const GemmChoice& product, const AlgorithmWords& algorithm) {
  return library_->take(product, algorithm);
}

}  // namespace elaswave::kernels::cuda
