#include "app/run_spec.h"

#include <algorithm>
#include <cmath>

#include "io/base/hash.h"
#include "model/layers/parameters.h"
#include "model/spec/inventory.h"

namespace elaswave::app {
namespace {

// Below this a gradient spike that clipping would have handled counts as out of range.
constexpr float kLeastAddendLimit = 64;

optim::LrSchedule lr_schedule(const std::string& name) {
  if (name == "wsd") return optim::LrSchedule::wsd;
  if (name == "linear") return optim::LrSchedule::linear;
  if (name == "constant") return optim::LrSchedule::constant;
  return optim::LrSchedule::cosine;
}

LayoutSpec resolve_layout(const Config::Parallel& parallel) {
  LayoutSpec layout{.tensor = static_cast<std::int32_t>(parallel.tp),
                    .pipeline = static_cast<std::int32_t>(parallel.pp),
                    .chunks = static_cast<std::int32_t>(parallel.chunks)};
  using enum pipeline::Schedule;
  for (const pipeline::Schedule schedule : {gpipe, one_f_one_b, interleaved, zb_h1, zbv})
    if (pipeline::name(schedule) == parallel.schedule) layout.schedule = schedule;
  return layout;
}

layers::Recompute resolve_recompute(const std::string& name) {
  if (name == "selective") return layers::Recompute::selective;
  if (name == "full") return layers::Recompute::full;
  return layers::Recompute::none;
}

std::int64_t resolve_loss_chunk(const std::string& device_kind) {
  return device_kind == "cuda" ? kernels::kCudaLossChunkTokens : kernels::kCpuLossChunkTokens;
}

optim::AdamWConfig resolve_adamw(const Config::Train& train) {
  return {.lr = {.schedule = lr_schedule(train.lr_schedule),
                 .peak = train.lr,
                 .floor = train.min_lr,
                 .warmup_steps = train.warmup_steps,
                 .horizon_steps = train.decay_steps > 0 ? train.decay_steps : train.steps,
                 .wsd_decay_fraction = train.wsd_decay_fraction},
          .beta1 = train.beta1,
          .beta2 = train.beta2,
          .epsilon = train.epsilon,
          .weight_decay = train.weight_decay,
          .clip = train.clip};
}

Result<void> check_exact_sums(const RunSpec& spec, double epsilon) {
  // The tied embedding has most addends, unless every slice adds to a replicated tensor.
  const std::int64_t contributions =
      std::max<std::int64_t>(1 + spec.head_addends(), spec.layout.tensor);
  const float limit = layers::addend_limit(spec.micro_batches, contributions);
  if (limit < kLeastAddendLimit)
    return fail(
        {.code = Code::usage,
         .what = "the global batch is too large for exact sums",
         .where = "train.global_batch",
         .why = fmt::format("{} micro-batches leave gradients a range of {}; at least {} is needed",
                            spec.micro_batches, limit, kLeastAddendLimit),
         .fix = "use larger micro-batches, a smaller global batch, or numerics.mode=fast"});
  const double grid = std::ldexp(1.0, -kernels::kFractionBits);
  if (grid > epsilon / 4096)
    return fail(
        {.code = Code::usage,
         .what = "AdamW's epsilon is too small for exact sums",
         .where = "train.epsilon",
         .why = fmt::format("it is {}; the grid of the sums, {}, must stay below epsilon / 4096",
                            epsilon, grid),
         .fix = fmt::format("use at least {}, or numerics.mode=fast", grid * 4096)});
  return {};
}

/// Between split products the tokens of a micro-batch are divided over the slices.
Result<void> check_rows(const RunSpec& spec) {
  const std::int64_t tokens = spec.tokens_per_micro_batch();
  if (tokens >= spec.layout.tensor) return {};
  return fail({.code = Code::usage,
               .what = "a micro-batch has fewer tokens than tensor slices",
               .where = "parallel.tp",
               .why = fmt::format("{} tokens for {} slices", tokens, spec.layout.tensor),
               .fix = "use a larger train.micro_batch, or a smaller parallel.tp"});
}

}  // namespace

Result<spec::ModelConfig> resolve_model(const Config::Model& model) {
  EW_ASSIGN(spec::ModelConfig config, spec::find_preset(model.preset));
  if (model.layers > 0) config.layers = model.layers;
  if (model.heads > 0) config.heads = model.heads;
  if (model.hidden > 0) config.hidden = model.hidden;
  if (model.context > 0) config.context = model.context;
  if (model.vocab > 0) config.vocab = model.vocab;
  if (model.dropout >= 0) config.dropout = static_cast<float>(model.dropout);
  EW_TRY(spec::validate(config));
  return config;
}

Result<RunSpec> resolve(const Config& config) {
  RunSpec spec;
  EW_ASSIGN(spec.model, resolve_model(config.model));
  const Config::Train& train = config.train;
  EW_CHECK(train.micro_batch > 0 && train.global_batch % train.micro_batch == 0,
           "global batch {}, micro-batch {}", train.global_batch, train.micro_batch);
  if (config.device.kind == "cuda") spec.device_memory = spec::DeviceMemory::own;
  spec.sum_mode = config.numerics.mode == "fast" ? zero::SumMode::fast : zero::SumMode::exact;
  spec.adamw = resolve_adamw(train);
  spec.layout = resolve_layout(config.parallel);
  spec.recompute = resolve_recompute(train.recompute);
  spec.storage = train.precision == "bf16" ? DType::bf16 : DType::f32;
  spec.operands = config.device.kind == "cpu" ? spec::Operands::widened : spec::Operands::stored;
  spec.loss_chunk_tokens = resolve_loss_chunk(config.device.kind);
  EW_TRY(spec::check_tensor_degree(spec.model, config.parallel.tp));
  spec.non_finite = train.non_finite == "skip" ? NonFinite::skip : NonFinite::stop;
  spec.seed = static_cast<std::uint64_t>(train.seed);
  spec.steps = train.steps;
  spec.stop_at = train.stop_at;
  spec.micro_batch = train.micro_batch;
  spec.micro_batches = train.global_batch / train.micro_batch;
  EW_TRY(check_rows(spec));
  spec.val_every = train.val_every;
  spec.val_batches = train.val_batches;
  spec.val_last = train.val_last;
  spec.digest_every = config.log.digest_every;
  const std::string& directory =
      config.checkpoint.dir.empty() ? config.log.dir : config.checkpoint.dir;
  spec.checkpoint = {.directory = directory.empty() ? "" : directory + "/checkpoints",
                     .every = config.checkpoint.every,
                     .last = config.checkpoint.last,
                     .keep = config.checkpoint.keep,
                     .keep_every = config.checkpoint.keep_every,
                     .verify = config.checkpoint.verify};
  constexpr std::int64_t kElemsPerMib = (1 << 20) / (3 * sizeof(float));  // of state
  const Config::Elastic& elastic = config.elastic;
  spec.elastic = {.copies = static_cast<std::int32_t>(elastic.enabled ? elastic.copies : 0),
                  .fill_elems = elastic.fill_mib * kElemsPerMib,
                  .rebalance = elastic.rebalance,
                  .scrub_steps = elastic.scrub_steps};
  spec.timeout = config.comm.timeout_ms * kMillisecond;
  if (spec.sum_mode == zero::SumMode::exact) EW_TRY(check_exact_sums(spec, train.epsilon));
  return spec;
}

std::uint64_t RunSpec::recipe_hash() const {
  const optim::LrConfig& lr = adamw.lr;
  return hash_text(fmt::format("{} {} {} {} {} {} | {} {} {} {} | {} {} {} {} {} {} | {} {} {} {} "
                               "{} | {} {} {} {} {} {}",
                               model.layers, model.heads, model.hidden, model.context, model.vocab,
                               model.dropout, static_cast<int>(storage), static_cast<int>(sum_mode),
                               static_cast<int>(non_finite), seed, static_cast<int>(lr.schedule),
                               lr.peak, lr.floor, lr.warmup_steps, lr.horizon_steps,
                               lr.wsd_decay_fraction, adamw.beta1, adamw.beta2, adamw.epsilon,
                               adamw.weight_decay, adamw.clip, micro_batch, micro_batches, steps,
                               stop_at, val_every, val_batches) +
                   fmt::format("{} | {} {} | {} {} {}", layout.tensor, val_last, digest_every,
                               !checkpoint.directory.empty(), checkpoint.every, checkpoint.last));
}

}  // namespace elaswave::app
