#include "model/kernels/gemm_cuda.h"

namespace elaswave::kernels::cuda {

void linear_forward(const CudaContext& context, Gemm& gemm, const LinearForward& args) {
  gemm.multiply(context, factors(ProductForm::nn, args.x_NC, args.w_CD), args.y_ND, args.b_D);
}

void linear_backward_input(const CudaContext& context, Gemm& gemm,
                           const LinearBackwardInput& args) {
  const Factors product = factors(ProductForm::nt, args.dy_ND, args.w_CD);
  if (args.gelu_x.data == nullptr) {
    gemm.multiply(context, product, args.dx_NC);
  } else if (!gemm.multiply_gelu_gradient(context, product, args.dx_NC, args.gelu_x)) {
    gemm.multiply(context, product, args.dx_NC);
    gelu_backward(context, {args.gelu_x, args.dx_NC, args.dx_NC});
  }
}

void linear_backward_weight(const CudaContext& context, Gemm& gemm,
                            const LinearBackwardWeight& args) {
  gemm.multiply_into_sink(context, factors(ProductForm::tn, args.x_NC, args.dy_ND), args.dw_CD);
  if (args.db_D.elems != 0) column_sums_into_sink(context, args.dy_ND, args.db_D);
}

}  // namespace elaswave::kernels::cuda
