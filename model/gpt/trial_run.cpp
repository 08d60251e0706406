#include "model/gpt/trial_run.h"

#include <algorithm>

#include "io/base/bf16.h"
#include "model/gpt/init.h"

namespace elaswave::gpt {
namespace {

constexpr std::uint64_t kSeed = 1;
// So many numbers of a tensor are drawn, then repeated: making all would take longer than the run.
constexpr std::int64_t kDrawnElems = 1 << 18;

std::vector<bool> parts_of_slice(const spec::Inventory& inventory, std::int32_t slice) {
  std::vector<bool> held;
  for (const spec::PartSpec& part : inventory.parts())
    held.push_back(part.slice < 0 || part.slice == slice);
  return held;
}

}  // namespace

std::vector<std::int32_t> random_tokens(std::uint64_t seed, std::int64_t count, std::int64_t vocab,
                                        std::uint64_t which) {
  const RandomStream stream = random_stream(seed, RandomUse::fingerprint, which);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] =
        static_cast<std::int32_t>(random_word(stream, i) % static_cast<std::uint64_t>(vocab));
  return tokens;
}

TrialRun::TrialRun(const kernels::Machine& machine, const TrialSpec& spec)
    : machine_(machine),
      config_(spec.config),
      micro_batch_(spec.micro_batch),
      inventory_(config_, spec.storage, spec.slices == nullptr ? 1 : spec.slices->slices()),
      blocks_(inventory_.blocks()),
      held_(parts_of_slice(inventory_, spec.slices == nullptr ? 0 : spec.slices->slice())),
      working_(blocks_, working_bytes(inventory_, held_), machine.stream.device()),
      sums_(blocks_, spec.sum_mode, held_, machine.arithmetic),
      context_{.ops = machine_.ops,
               .stream = machine_.stream,
               .config = config_,
               .micro_batch = micro_batch_,
               .storage = spec.storage,
               .recompute = spec.recompute,
               .loss_chunk_tokens = spec.loss_chunk_tokens,
               .slice_group = spec.slices},
      parameters_(inventory_, working_, context_.slice()),
      gradients_(inventory_, sums_, 1,
                 kernels::loss_contributions(context_.tokens(), spec.loss_chunk_tokens),
                 context_.slice()),
      model_(context_, inventory_, parameters_, gradients_) {
  for (std::size_t part = 0; part < held_.size(); ++part)
    if (held_[part]) fill_weights(static_cast<std::int32_t>(part));
}

TrialRun::~TrialRun() {
  try {
    machine_.stream.synchronize();
  } catch (const device::DeviceLost&) {
    // Told by whoever uses it next.
  }
}

void TrialRun::fill_weights(std::int32_t part) {
  const std::int64_t elems = inventory_.part(part).elems();
  const spec::TensorSpec& tensor = inventory_.tensor(inventory_.part(part).tensor);
  std::vector<float> values(static_cast<std::size_t>(std::min(elems, kDrawnElems)));
  initial_values(tensor, config_.layers, kSeed, 0, values);
  std::vector<bf16> narrow(values.size());
  std::ranges::transform(values, narrow.begin(), to_bf16);
  const bool is_narrow = tensor.storage == DType::bf16;
  const std::int64_t elem_bytes = size_bytes(tensor.storage);
  for (std::int64_t first = 0; first < elems; first += std::ssize(values))
    machine_.stream.copy(working_.part(part) + first * elem_bytes,
                         is_narrow ? static_cast<const void*>(narrow.data()) : values.data(),
                         std::min(std::ssize(values), elems - first) * elem_bytes);
}

Result<void> TrialRun::run() {
  std::vector<std::int64_t> positions(static_cast<std::size_t>(micro_batch_));
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int64_t>(i);
  const auto ids = random_tokens(kSeed, context_.tokens(), config_.vocab, 1);
  const auto targets = random_tokens(kSeed, context_.tokens(), config_.vocab, 2);
  const layers::MicroBatch batch{kSeed, Step{1}, positions, ids, targets, config_.dropout};
  const auto at_once = [](std::int32_t) -> Result<void> { return {}; };
  sums_.begin_step();
  EW_TRY(model_.forward(batch, at_once));
  return model_.backward(batch, at_once);
}

}  // namespace elaswave::gpt
