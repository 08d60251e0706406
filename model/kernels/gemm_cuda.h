// Matrix products of the CUDA backend through cuBLASLt, with f32 sums and f32 or bf16 operands, and
// column sums by a kernel of our own.
//
// The algorithm of a product is a row of the tuned table (gemm_table.h) or else the library's first
// choice under fixed conditions: no reduction that rounds partial sums or adds them by atomics, a
// workspace of fixed size that is the caller's (cuBLAS documentation, "Results reproducibility"),
// alignments by class. So bits follow from library version, device name, shapes, and whether all of
// a product's rows and its bias begin at multiples of 16 bytes. Nothing is timed.
//
// All matrices are row-major views of device memory, rows `stride` elements apart, each row
// beginning at a multiple of the element size. Calls enqueue; they throw device::DeviceLost, with
// the call's name and the library's own status, when the library refuses. THREADS: one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/base/error.h"
#include "model/kernels/cuda_kernels.h"
#include "model/kernels/gemm_table.h"
#include "model/kernels/ops.h"

namespace elaswave::device {
class CudaDevice;
}

namespace elaswave::kernels::cuda {

/// The operands of one product with an M x N result and sums of K terms.
struct Factors {
  ProductForm form = ProductForm::nn;
  ConstMat a, b;  // of one type
  std::int64_t M = 0, N = 0, K = 0;
};
/// Checks that types and inner sizes agree and that nothing is empty.
Factors factors(ProductForm form, const ConstMat& a, const ConstMat& b);

/// One product and the algorithm it got, for logs and `elaswave tune`.
struct GemmChoice {
  ProductShape shape;
  std::int64_t a_stride = 0, b_stride = 0, c_stride = 0;  // elements between rows
  std::int64_t slope_stride = 0;  // Epilogue::dgelu: of what slopes are taken at
  bool aligned = true;            // to 16 bytes, all of it; rows of the table are for those alone
  AlgorithmWords algorithm{};
  bool tuned = false;  // by the table
};

class Gemm {
 public:
  /// The workspace of every product: what NVIDIA recommends on Hopper (cuBLAS documentation,
  /// cublasSetWorkspace). Its size can change the library's choice and with it bits.
  static constexpr std::int64_t kWorkspaceBytes = 32 << 20;
  /// Products into an exact sink lie in scratch memory as f32, at most about this much at a time:
  /// they are cut into rows that fit.
  static constexpr std::int64_t kSinkBytes = 64 << 20;

  /// For streams of that device, whose name() chooses the rows of the table. Errors:
  /// Code::unavailable when the library does not start, Code::data when the table cannot be read.
  /// Throws DeviceLost when the library has no algorithm for a product of hash().
  static Result<std::unique_ptr<Gemm>> create(device::CudaDevice& device,
                                              std::string_view table_rows = tuned_gemm_rows(),
                                              std::int64_t sink_bytes = kSinkBytes);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  /// C = product (+ bias_N to every row when it is not empty), stored as c's type. c is f32, or of
  /// the operands' type. With a bf16 result the bias is rounded to bf16 first: cuBLASLt takes a
  /// bias of the result's type. REQUIRES: c is M x N and aliases no operand.
  void multiply(const CudaContext& context, const Factors& factors, const Mat& c,
                std::span<const float> bias_N = {});

  /// c = gelu'(x) * product, rounded once, by the library's own epilogue; false, and nothing is
  /// issued, where it has none: it is asked for bf16 alone, all rows at multiples of 16 bytes. A
  /// function of what the algorithm of a product is one of. REQUIRES: c as for multiply(); x of its
  /// shape and type.
  bool multiply_gelu_gradient(const CudaContext& context, const Factors& factors, const Mat& c,
                              const ConstMat& x);

  /// sink += product, or = where the sink says so. Exact sums: each element is rounded once. Fast
  /// sums: the library adds, and the sums are then looked through for what is not finite.
  /// REQUIRES: sink.elems == M * N.
  void multiply_into_sink(const CudaContext& context, const Factors& factors, const GradSink& sink);

  /// "130100": the number of the library.
  std::uint64_t library_version() const;
  /// Of the table's rows and of what the library chooses for a fixed list of products: equal on
  /// ranks that compute the same bits as far as can be told without knowing their products.
  /// Constant from creation on.
  std::uint64_t hash() const;
  /// What has been multiplied so far, in order of shape.
  std::vector<GemmChoice> choices() const;

  /// For `elaswave tune`. What the library names for a product under the conditions of its first
  /// choice, that one first, at most `most`. Throws DeviceLost.
  std::vector<AlgorithmWords> candidates(const GemmChoice& product, int most) const;
  /// The product takes this algorithm from now on; false, and nothing changes, when the library
  /// refuses it here. hash() stays: for measuring, not for training.
  bool take(const GemmChoice& product, const AlgorithmWords& algorithm);

 private:
  class Library;
  Gemm(std::unique_ptr<Library> library, std::int64_t sink_bytes);

  std::unique_ptr<Library> library_;
  std::int64_t sink_bytes_;
};

/// sink_D += column sums of x, f32 or bf16: every kSumRows rows are summed, then those sums; each
/// time kSumLanes lanes take rows in turn and are added in order.
inline constexpr std::int64_t kSumRows = 128;
inline constexpr std::int64_t kSumLanes = 8;
void column_sums_into_sink(const CudaContext& context, const ConstMat& x_ND,
                           const GradSink& sink_D);

void linear_forward(const CudaContext& context, Gemm& gemm, const LinearForward& args);
void linear_backward_input(const CudaContext& context, Gemm& gemm, const LinearBackwardInput& args);
void linear_backward_weight(const CudaContext& context, Gemm& gemm,
                            const LinearBackwardWeight& args);

}  // namespace elaswave::kernels::cuda
