#include "model/gpt/fingerprint.h"

#include <vector>

#include "io/base/hash.h"
#include "model/gpt/init.h"
#include "model/gpt/trial_run.h"
#include "model/gpt/whole_model.h"
#include "model/optim/digest.h"
#include "model/optim/update.h"

namespace elaswave::gpt {
namespace {

constexpr std::uint64_t kSeed =
    0x656C617377617665;  // any constant; part of the fingerprint's definition

/// One replica that owns everything.
layout::Plan solo_plan(const layout::BlockTable& blocks) {
  layout::Plan plan;
  plan.chunk_of_layer.assign(static_cast<std::size_t>(blocks.layers()), 0);
  plan.stage_of_chunk = {0};
  plan.stages = {{{{{0}}}}};
  plan.micro_batches = 1;
  plan.route = {0};
  plan.schedule.resize(1);
  plan.owner.assign(static_cast<std::size_t>(blocks.count()), 0);
  return plan;
}

}  // namespace

Result<std::uint64_t> fingerprint(const kernels::Machine& machine, const spec::ModelConfig& config,
                                  std::int64_t micro_batch, DType storage,
                                  std::int64_t loss_chunk_tokens) {
  spec::ModelConfig shallow = config;
  shallow.layers = 1;
  const spec::Inventory inventory(shallow, storage);
  const layout::BlockTable blocks = inventory.blocks();
  std::vector<std::int64_t> storage_bytes;
  for (const spec::TensorSpec& tensor : inventory.tensors())
    storage_bytes.push_back(size_bytes(tensor.storage));

  device::Device& device = machine.stream.device();
  zero::TensorStore working(blocks, storage_bytes, device);
  zero::GradSums sums(blocks, zero::SumMode::exact, std::vector<bool>(storage_bytes.size(), true),
                      machine.arithmetic);
  zero::Shard shard(blocks, solo_plan(blocks), 0, device);
  optim::OwnedState owned(blocks, shard, machine.stream);
  initialize(machine.host_stream, inventory, blocks, kSeed, shard);
  owned.load();
  optim::store_weights(machine, inventory, blocks, shard, owned, working);

  const layers::Context context{.ops = machine.ops,
                                .stream = machine.stream,
                                .config = shallow,
                                .micro_batch = micro_batch,
                                .storage = storage,
                                .loss_chunk_tokens = loss_chunk_tokens};
  const layers::Parameters parameters(inventory, working);
  layers::Gradients gradients(inventory, sums, 1,
                              kernels::loss_contributions(context.tokens(), loss_chunk_tokens));
  WholeModel model(context, inventory, parameters, gradients);

  std::vector<std::int64_t> positions(static_cast<std::size_t>(micro_batch));
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int64_t>(i);
  const auto ids = random_tokens(kSeed, context.tokens(), config.vocab, 1);
  const auto targets = random_tokens(kSeed, context.tokens(), config.vocab, 2);
  const layers::MicroBatch batch{kSeed, Step{1}, positions, ids, targets, config.dropout};
  const auto at_once = [](std::int32_t) -> Result<void> { return {}; };
  EW_TRY(model.forward(batch, at_once));
  EW_TRY(model.backward(batch, at_once));

  optim::CommitVote vote;
  vote.tokens = context.tokens();
  add_losses(model.losses(), vote.loss);
  optim::log_gradients(machine, blocks, shard, owned, sums, 1, vote);
  const optim::AdamWConfig adamw{.lr = {.schedule = optim::LrSchedule::constant, .peak = 1e-3}};
  const optim::CommitRecord record = optim::decide(vote, {Step{1}, Generation{0}}, 0, 0, adamw);
  optim::apply(machine, inventory, blocks, shard, owned, {}, record, working);

  machine.stream.synchronize();  // before what it works on goes
  std::uint64_t hash = optim::state_digest(
      inventory,
      optim::digest_sums(machine.host_ops, machine.host_stream, inventory, blocks, shard));
  machine.ops.release_memory(machine.stream);  // a slice of the model needs less
  const std::span<const float> losses = model.losses();
  hash = hash_bytes(std::as_bytes(losses), hash);
  return hash_bytes(std::as_bytes(std::span(&record.grad_norm, 1)), hash);
}

}  // namespace elaswave::gpt
