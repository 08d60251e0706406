#include "model/kernels/linear_cpu.h"

namespace elaswave::kernels {

void linear_forward(const CpuContext& context, const LinearForward& args) {
  gemm(context, gemm_of(Product::nn, args.x_NC, args.w_CD), args.y_ND, args.b_D);
}

void linear_backward_input(const CpuContext& context, const LinearBackwardInput& args) {
  gemm(context, gemm_of(Product::nt, args.dy_ND, args.w_CD), args.dx_NC);
}

void linear_backward_weight(const CpuContext& context, const LinearBackwardWeight& args) {
  gemm_into_sink(context, gemm_of(Product::tn, args.x_NC, args.dy_ND), args.dw_CD);
  if (args.db_D.elems != 0) column_sums_into_sink(context, args.dy_ND, args.db_D);
}

}  // namespace elaswave::kernels
