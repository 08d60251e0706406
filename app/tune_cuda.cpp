#include "app/tune_cuda.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <span>

#include "app/rank_device.h"
#include "model/gpt/trial_run.h"
#include "model/kernels/cuda_ops.h"
#include "parallel/comm/simulation.h"
#include "parallel/comm/staged_world.h"
#include "parallel/device/cuda_arithmetic.h"

namespace elaswave::app {
namespace {

using device::CudaDevice;
using kernels::ProductShape;
using kernels::cuda::Gemm;
using kernels::cuda::GemmChoice;
using kernels::cuda::TunedProduct;

// What a process' own stack usually is: libraries of a GPU expect no less.
constexpr std::int64_t kStackBytes = 8 << 20;

/// One micro-batch of a slice; `world` is null where there is one slice. Attention by the plain
/// kernels: it multiplies nothing that a table could name.
Result<void> run_slice(CudaDevice& device, const std::shared_ptr<Gemm>& gemm, const RunSpec& spec,
                       comm::World* world) {
  device::CudaStream stream(device);
  device::CpuStream host_stream(1);
  const auto arithmetic = device::make_cuda_arithmetic(stream);
  kernels::CudaOpsOptions options;
  options.gemm = gemm;
  EW_ASSIGN(const auto ops, kernels::make_cuda_ops(device, std::move(options)));
  EW_ASSIGN(const auto host_ops, kernels::make_cpu_ops(kernels::Isa::automatic));
  std::optional<comm::StagedWorld> staged;
  std::optional<comm::SliceGroup> slices;
  if (world != nullptr) {
    staged.emplace(*world, stream);
    std::vector<int> ranks(static_cast<std::size_t>(world->size()));
    std::iota(ranks.begin(), ranks.end(), 0);
    slices.emplace(*staged, std::move(ranks), spec.timeout, *arithmetic);
  }
  spec::ModelConfig shallow = spec.model;
  shallow.layers = 1;
  gpt::TrialRun trial({*ops, stream, *arithmetic, *host_ops, host_stream},
                      {.config = shallow,
                       .micro_batch = spec.micro_batch,
                       .storage = spec.storage,
                       .loss_chunk_tokens = spec.loss_chunk_tokens,
                       .sum_mode = spec.sum_mode,
                       .recompute = spec.recompute,
                       .slices = slices ? &*slices : nullptr});
  EW_TRY(trial.run());
  stream.synchronize();
  return {};
}

/// Aligned variants of each shape, the most work first; shapes without one have none.
std::vector<std::vector<GemmChoice>> by_shape(const std::vector<GemmChoice>& products) {
  std::map<ProductShape, std::vector<GemmChoice>> shapes;
  for (const GemmChoice& product : products) {
    std::vector<GemmChoice>& variants = shapes[product.shape];
    if (product.aligned) variants.push_back(product);
  }
  std::vector<std::vector<GemmChoice>> list;
  for (auto& [shape, variants] : shapes)
    if (!variants.empty()) list.push_back(std::move(variants));
  const auto work = [](const std::vector<GemmChoice>& variants) {
    const ProductShape& shape = variants.front().shape;
    return static_cast<double>(shape.M) * static_cast<double>(shape.N) *
           static_cast<double>(shape.K);
  };
  std::ranges::stable_sort(list, std::greater(), work);
  return list;
}

Result<void> tune_shape(CudaDevice& device, Gemm& gemm, std::span<const GemmChoice> variants,
                        const kernels::cuda::TuneRules& rules, TuneFile& file) {
  // Streams, and with them scratch, go after each: the largest products are half a device's memory.
  device::CudaStream stream(device);
  kernels::cuda::Scratch scratch(stream);
  const TunedProduct tuned = kernels::cuda::tune_product({stream, scratch}, gemm, variants, rules);
  return file.add(kernels::cuda::tuned_lines(tuned, rules.row_share));
}

Result<void> tune_on(CudaDevice& device, const TuneRequest& request, TuneFile& file,
                     const kernels::cuda::TuneRules& rules) {
  const RunSpec& spec = request.spec;
  EW_ASSIGN(const std::shared_ptr<Gemm> gemm, Gemm::create(device, ""));
  EW_TRY(file.begin(fmt::format("library {} device {}", gemm->library_version(), device.name())));
  EW_TRY(file.note(fmt::format(
      "elaswave tune: {} samples of {} tokens, {} hidden, vocabulary of {}, tensor degree {}, {}; "
      "{} algorithms asked for, median of {} rounds",
      spec.micro_batch, spec.model.context, spec.model.hidden, spec.model.vocab, spec.layout.tensor,
      name(spec.storage), rules.candidates, rules.rounds)));
  EW_ASSIGN(const std::vector<GemmChoice> products, record_products(device, gemm, spec));
  for (const GemmChoice& product : products)
    if (!product.aligned)
      EW_TRY(file.note(fmt::format("{}: rows not aligned to 16 bytes take the library's first",
                                   describe(product.shape))));
  for (const std::vector<GemmChoice>& variants : by_shape(products)) {
    if (file.finished(describe(variants.front().shape))) continue;
    EW_TRY(tune_shape(device, *gemm, variants, rules, file));
  }
  return file.note("all products are tuned");
}

}  // namespace

Result<std::vector<GemmChoice>> record_products(CudaDevice& device,
                                                const std::shared_ptr<Gemm>& gemm,
                                                const RunSpec& spec) {
  if (spec.layout.tensor == 1) {
    EW_TRY(run_slice(device, gemm, spec, nullptr));
    return gemm->choices();
  }
  // Slices in turn, on one device: what they compute is exchanged as in a run.
  std::optional<Error> failure;
  EW_TRY(comm::simulate({.ranks = spec.layout.tensor, .stack_bytes = kStackBytes, .probe = {}},
                        [&](comm::World& world) {
                          if (auto ran = run_slice(device, gemm, spec, &world); !ran)
                            failure = std::move(ran).error();
                        }));
  if (failure) return fail(std::move(*failure));
  return gemm->choices();
}

Result<void> tune_cuda(const TuneRequest& request, TuneFile& file, kernels::cuda::TuneRules rules) {
  rules.candidates = request.candidates;
  rules.rounds = request.rounds;
  EW_ASSIGN(const std::unique_ptr<CudaDevice> device,
            device::make_cuda_device(std::max(0, request.gpu)));
  try {
    return tune_on(*device, request, file, rules);
  } catch (const device::DeviceLost& lost) {
    return fail(device_lost(lost));
  } catch (const device::OutOfMemory& full) {
    return fail({.code = Code::does_not_fit,
                 .what = full.what(),
                 .where = "elaswave tune",
                 .why = "a micro-batch through one block, and a product's operands, must fit",
                 .fix = "use the GPU alone, or a smaller train.micro_batch"});
  }
}

}  // namespace elaswave::app
