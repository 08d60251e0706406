#include "model/kernels/cpu_ops.h"

#include <dnnl.h>
#include <fmt/format.h>

#include "model/kernels/cpu_kernels.h"
#include "model/kernels/gemm_simd.h"
#include "model/kernels/linear_cpu.h"
#include "model/kernels/widened_cpu.h"

namespace elaswave::kernels {

namespace {

// Everything that differs between instruction sets.
struct IsaTables {
  std::string_view name;
  dnnl_cpu_isa_t library_isa;
  const ElementwiseKernels& elementwise;
  const NormKernels& norm;
  const AttentionKernels& attention;
  const CachedAttentionKernels& cached_attention;
  const GemmSimd& gemm;
};

IsaTables tables_of(Isa isa) {
  if (isa == Isa::avx512)
    return {"avx512",
            dnnl_cpu_isa_avx512_core,
            elementwise_kernels_avx512(),
            norm_kernels_avx512(),
            attention_kernels_avx512(),
            cached_attention_kernels_avx512(),
            gemm_simd_avx512};
  return {"avx2",
          dnnl_cpu_isa_avx2,
          elementwise_kernels_avx2(),
          norm_kernels_avx2(),
          attention_kernels_avx2(),
          cached_attention_kernels_avx2(),
          gemm_simd_avx2};
}

class CpuOps final : public Ops {
 public:
  explicit CpuOps(const IsaTables& tables) : tables_(tables) {}

  void embedding_forward(Stream& stream, const EmbeddingForward& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::embedding_forward(cpu, tables_.elementwise, a);
    });
  }
  void embedding_backward(Stream& stream, const EmbeddingBackward& args) override {
    run(stream, args, [&](const CpuContext& cpu, EmbeddingBackward a) {
      if (args.dx_NC.dtype == DType::bf16) mask_copy(cpu, a, 0);
      kernels::embedding_backward(cpu, tables_.elementwise, a);
    });
  }
  void embedding_lookup(Stream& stream, const EmbeddingLookup& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::embedding_lookup(cpu, tables_.elementwise, a);
    });
  }
  void embedding_lookup_backward(Stream& stream, const EmbeddingLookupBackward& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::embedding_lookup_backward(cpu, tables_.elementwise, a);
    });
  }
  void embedding_positions(Stream& stream, const EmbeddingPositions& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::embedding_positions(cpu, tables_.elementwise, a);
    });
  }
  void embedding_positions_backward(Stream& stream,
                                    const EmbeddingPositionsBackward& args) override {
    run(stream, args, [&](const CpuContext& cpu, EmbeddingPositionsBackward a) {
      if (args.dx_NC.dtype == DType::bf16) mask_copy(cpu, a, a.row_begin);
      kernels::embedding_positions_backward(cpu, tables_.elementwise, a);
    });
  }
  void layernorm_forward(Stream& stream, const LayerNormForward& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::layernorm_forward(cpu, tables_.norm, a);
    });
  }
  void layernorm_backward(Stream& stream, const LayerNormBackward& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::layernorm_backward(cpu, tables_.norm, a);
    });
  }
  void linear_forward(Stream& stream, const LinearForward& args) override {
    run(stream, args,
        [&](const CpuContext& cpu, const auto& a) { kernels::linear_forward(cpu, a); });
  }
  void linear_backward_input(Stream& stream, const LinearBackwardInput& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::linear_backward_input(cpu, a);
      if (a.gelu_x.data == nullptr) return;
      kernels::gelu_backward(cpu, tables_.elementwise,
                             {.x = a.gelu_x, .dy = a.dx_NC, .dx = a.dx_NC});
    });
  }
  void linear_backward_weight(Stream& stream, const LinearBackwardWeight& args) override {
    run(stream, args,
        [&](const CpuContext& cpu, const auto& a) { kernels::linear_backward_weight(cpu, a); });
  }
  void attention_forward(Stream& stream, const AttentionForward& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::attention_forward(cpu, tables_.attention, a);
    });
  }
  void attention_backward(Stream& stream, const AttentionBackward& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::attention_backward(cpu, tables_.attention, a);
    });
  }
  void attention_cached(Stream& stream, const AttentionCached& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::attention_cached(cpu, tables_.cached_attention, a);
    });
  }
  void gelu_forward(Stream& stream, const GeluForward& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::gelu_forward(cpu, tables_.elementwise, a);
    });
  }
  void gelu_backward(Stream& stream, const GeluBackward& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::gelu_backward(cpu, tables_.elementwise, a);
    });
  }
  void residual_forward(Stream& stream, const ResidualForward& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::residual_forward(cpu, tables_.elementwise, a);
    });
  }
  void residual_backward(Stream& stream, const ResidualBackward& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) {
      kernels::residual_backward(cpu, tables_.elementwise, a);
    });
  }
  void head_loss(Stream& stream, const HeadLoss& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) { kernels::head_loss(cpu, a); });
  }
  void head_logits(Stream& stream, const HeadLogits& args) override {
    run(stream, args, [&](const CpuContext& cpu, const auto& a) { kernels::head_logits(cpu, a); });
  }
  void head_combine(Stream& stream, const HeadCombine& args) override {
    kernels::head_combine(context(stream), args);
  }
  void head_gradient(Stream& stream, const HeadGradient& args) override {
    run(stream, args,
        [&](const CpuContext& cpu, const auto& a) { kernels::head_gradient(cpu, a); });
  }
  void adamw(Stream& stream, std::span<const AdamW> args) override {
    kernels::adamw(context(stream), tables_.elementwise, args);
  }
  void mean_gradient(Stream& stream, std::span<const MeanGradient> args) override {
    kernels::mean_gradient(context(stream), tables_.elementwise, args);
  }
  void store_weights(Stream& stream, std::span<const StoreWeights> args) override {
    kernels::store_weights(context(stream), args);
  }
  void sum_squares(Stream& stream, std::span<const std::span<const float>> ranges,
                   std::span<double> out) override {
    kernels::sum_squares(context(stream), tables_.elementwise, ranges, out);
  }
  void digest(Stream& stream, std::span<const std::span<const float>> ranges,
              std::span<const std::uint64_t> keys, std::span<std::uint64_t> out) override {
    kernels::digest(context(stream), tables_.elementwise, ranges, keys, out);
  }

  // No libm in it: exponentials and logarithms are our own, square roots and divisions are
  // instructions.
  std::string numeric_class() const override {
    return fmt::format("cpu/{}/onednn-{}/tiles-{:08x}", tables_.name, gemm_library_version(),
                       gemm_table_hash() & 0xFFFFFFFFu);
  }

 private:
  /// operation(context, args), with operands in f32.
  template <typename Args, typename Operation>
  void run(Stream& stream, const Args& args, const Operation& operation) {
    const CpuContext cpu = context(stream);
    in_f32(cpu, tables_.elementwise, args, [&](const Args& a) { operation(cpu, a); });
  }
  /// dx becomes dropout(dx) as bf16 holds it: sums over rows add what slices store. dx is a copy.
  template <typename Args>
  void mask_copy(const CpuContext& cpu, Args& args, std::int64_t row_begin) {
    if (args.dropout.rate == 0) return;
    const ConstMat& dx = args.dx_NC;
    mask_and_round(
        cpu, tables_.elementwise,
        {.dout_NC = dx,
         .T = args.T,
         .dropout = args.dropout,
         .dbranch_NC = {const_cast<std::byte*>(dx.data), dx.dtype, dx.rows, dx.cols, dx.stride},
         .row_begin = row_begin});
    args.dropout = {};
  }
  CpuContext context(Stream& stream) {
    ensure_float_mode();
    auto* cpu = dynamic_cast<device::CpuStream*>(&stream);
    EW_CHECK(cpu != nullptr, "the CPU backend was given a stream of another device");
    return {*cpu, tables_.gemm, workspace_};
  }

  IsaTables tables_;
  Workspace workspace_;
};

bool machine_has(Isa isa) {
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  if (isa == Isa::avx2) return avx2;
  return avx2 && __builtin_cpu_supports("avx512f") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0;
}

Result<Isa> choose(Isa wish) {
  const std::string where = "device.isa";
  if (!machine_has(Isa::avx2))
    return fail({Code::unavailable, "this processor has no AVX2 and FMA", where,
                 "the CPU backend is built for AVX2 and AVX-512 only",
                 "run on a processor of 2013 or later (Haswell, Zen)"});
  if (wish == Isa::avx512 && !machine_has(Isa::avx512))
    return fail({Code::unavailable, "device.isa is avx512 but this processor has no AVX-512", where,
                 "the AVX-512 kernels need F, DQ, BW and VL",
                 "set device.isa to avx2 on every rank, or leave this machine out"});
  if (wish == Isa::automatic) return machine_has(Isa::avx512) ? Isa::avx512 : Isa::avx2;
  return wish;
}

// oneDNN picks its kernels once a process, from the set named before its first use.
Result<void> pin_library(const IsaTables& tables) {
  (void)dnnl_set_max_cpu_isa(
      tables.library_isa);  // refused when it has been used; the next line tells
  if (dnnl_get_effective_cpu_isa() == tables.library_isa) return {};
  return fail({Code::unavailable, fmt::format("oneDNN cannot be held to {}", tables.name),
               "device.isa",
               "a process uses one instruction set, fixed at its first matrix product",
               "use the same device.isa throughout, and unset DNNL_MAX_CPU_ISA"});
}

}  // namespace

Result<std::unique_ptr<Ops>> make_cpu_ops(Isa isa) {
  EW_ASSIGN(const Isa chosen, choose(isa));
  const IsaTables tables = tables_of(chosen);
  EW_TRY(pin_library(tables));
  return std::make_unique<CpuOps>(tables);
}

std::string gemm_library_version() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("{}.{}.{}", version->major, version->minor, version->patch);
}

}  // namespace elaswave::kernels
