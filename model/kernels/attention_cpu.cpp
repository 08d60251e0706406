#include <cmath>

#include "model/kernels/cpu_kernels.h"

namespace elaswave::kernels {

namespace {

// One task is one head of one sample.
struct Heads {
  std::int64_t B, T, H, D;
  float scale;         // 1 / sqrt(D)
  std::int64_t begin;  // of these heads among the model's
};

template <typename Args>
Heads heads_of(const Args& args) {
  const ConstMat qkv = args.qkv_N3C, out = args.out_NC;
  const std::int64_t T = args.T, H = args.H;
  const Dropout& dropout = args.dropout;
  EW_CHECK(T > 0 && H > 0 && qkv.rows % T == 0 && qkv.cols % (3 * H) == 0,
           "{} x {} is not q, k and v of {} heads for samples of {}", qkv.rows, qkv.cols, H, T);
  const std::int64_t head_dim = qkv.cols / (3 * H);
  const Heads heads = {qkv.rows / T,
                       T,
                       H,
                       head_dim,
                       static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim))),
                       args.head_begin};
  EW_CHECK(out.rows == qkv.rows && out.cols == H * head_dim && args.head_begin >= 0,
           "an output of {} x {} for {} rows of heads {}+{} of {}", out.rows, out.cols, qkv.rows,
           args.head_begin, H, head_dim);
  EW_CHECK(std::ssize(args.lse_NH) >= qkv.rows * H, "lse of {} for {} rows of {} heads",
           args.lse_NH.size(), qkv.rows, H);
  EW_CHECK(dropout.rate == 0 || static_cast<std::int64_t>(dropout.streams_B.size()) == heads.B,
           "{} streams for {} samples", dropout.streams_B.size(), heads.B);
  return heads;
}

// body(sample, head, mask or null, worker) for every head of every sample.
template <typename Body>
void run_heads(const CpuContext& context, const Heads& heads, const Dropout& dropout,
               const Body& body) {
  run_pieces_indexed(
      context, heads.B * heads.H, 1, [&](std::int64_t task, std::int64_t, int worker) {
        const std::int64_t sample = task / heads.H, head = task % heads.H;
        DropoutMask mask;
        if (dropout.rate != 0) {
          mask = dropout_mask(dropout, sample);
          mask.first_element = static_cast<std::uint64_t>((heads.begin + head) * heads.T * heads.T);
        }
        body(sample, head, dropout.rate != 0 ? &mask : nullptr, worker);
      });
}

}  // namespace

void attention_forward(const CpuContext& context, const AttentionKernels& kernels,
                       const AttentionForward& args) {
  const ConstMat& qkv = args.qkv_N3C;
  const Heads heads = heads_of(args);
  const std::int64_t C = heads.H * heads.D, T = heads.T;
  const float* qkv_data = read_f32(qkv);
  float* out_data = write_f32(args.out_NC);
  context.workspace.prepare_workers(context.stream.pool().threads(),
                                    kernels.forward_scratch_elems(T, heads.D));
  run_heads(context, heads, args.dropout,
            [&](std::int64_t sample, std::int64_t head, const DropoutMask* mask, int worker) {
              const float* q = qkv_data + sample * T * qkv.stride + head * heads.D;
              kernels.forward({.q = q,
                               .k = q + C,
                               .v = q + 2 * C,
                               .out = out_data + sample * T * args.out_NC.stride + head * heads.D,
                               .lse = args.lse_NH.data() + (sample * heads.H + head) * T,
                               .qkv_stride = qkv.stride,
                               .out_stride = args.out_NC.stride,
                               .T = T,
                               .D = heads.D,
                               .scale = heads.scale,
                               .mask = mask,
                               .scratch = context.workspace.worker(worker)});
            });
}

void attention_backward(const CpuContext& context, const AttentionKernels& kernels,
                        const AttentionBackward& args) {
  const ConstMat& qkv = args.qkv_N3C;
  const Heads heads = heads_of(args);
  const std::int64_t C = heads.H * heads.D, T = heads.T;
  const float *qkv_data = read_f32(qkv), *out = read_f32(args.out_NC),
              *dout = read_f32(args.dout_NC);
  float* dqkv_data = write_f32(args.dqkv_N3C);
  context.workspace.prepare_workers(context.stream.pool().threads(),
                                    kernels.backward_scratch_elems(T, heads.D));
  run_heads(context, heads, args.dropout,
            [&](std::int64_t sample, std::int64_t head, const DropoutMask* mask, int worker) {
              const std::int64_t row = sample * T, column = head * heads.D;
              const float* q = qkv_data + row * qkv.stride + column;
              float* dq = dqkv_data + row * args.dqkv_N3C.stride + column;
              kernels.backward({.q = q,
                                .k = q + C,
                                .v = q + 2 * C,
                                .out = out + row * args.out_NC.stride + column,
                                .dout = dout + row * args.dout_NC.stride + column,
                                .lse = args.lse_NH.data() + (sample * heads.H + head) * T,
                                .dq = dq,
                                .dk = dq + C,
                                .dv = dq + 2 * C,
                                .qkv_stride = qkv.stride,
                                .out_stride = args.out_NC.stride,
                                .dout_stride = args.dout_NC.stride,
                                .dqkv_stride = args.dqkv_N3C.stride,
                                .T = T,
                                .D = heads.D,
                                .scale = heads.scale,
                                .mask = mask,
                                .scratch = context.workspace.worker(worker)});
            });
}

}  // namespace elaswave::kernels
