#include "model/spec/inventory.h"

namespace elaswave::spec {
namespace {

constexpr std::int32_t kBlockTensors = static_cast<std::int32_t>(BlockTensor::count);

TensorSpec matrix(std::string name, std::int64_t rows, std::int64_t cols, DType storage,
                  ShardRule shard, InitRule init, std::int32_t layer) {
  return {.name = std::move(name),
          .shape = {rows, cols},
          .dims = 2,
          .storage = storage,
          .shard = shard,
          .init = init,
          .decay = true,
          .layer = layer};
}

TensorSpec vector(std::string name, std::int64_t elems, ShardRule shard, InitRule init,
                  std::int32_t layer) {
  return {.name = std::move(name),
          .shape = {1, elems},
          .dims = 1,
          .storage = DType::f32,
          .shard = shard,
          .init = init,
          .decay = false,
          .layer = layer};
}

void add_block(std::vector<TensorSpec>& tensors, const ModelConfig& config, DType storage,
               std::int64_t block) {
  const std::int64_t C = config.hidden;
  const auto layer = static_cast<std::int32_t>(block + 1);
  const auto named = [block](std::string_view part) { return fmt::format("h.{}.{}", block, part); };
  using enum ShardRule;
  using enum InitRule;
  // In the order of BlockTensor.
  tensors.push_back(vector(named("ln_1.weight"), C, replicated, ones, layer));
  tensors.push_back(vector(named("ln_1.bias"), C, replicated, zeros, layer));
  tensors.push_back(
      matrix(named("attn.c_attn.weight"), C, 3 * C, storage, qkv_columns, normal, layer));
  tensors.push_back(vector(named("attn.c_attn.bias"), 3 * C, qkv_columns, zeros, layer));
  tensors.push_back(
      matrix(named("attn.c_proj.weight"), C, C, storage, rows, normal_residual, layer));
  tensors.push_back(vector(named("attn.c_proj.bias"), C, replicated, zeros, layer));
  tensors.push_back(vector(named("ln_2.weight"), C, replicated, ones, layer));
  tensors.push_back(vector(named("ln_2.bias"), C, replicated, zeros, layer));
  tensors.push_back(matrix(named("mlp.c_fc.weight"), C, 4 * C, storage, columns, normal, layer));
  tensors.push_back(vector(named("mlp.c_fc.bias"), 4 * C, columns, zeros, layer));
  tensors.push_back(
      matrix(named("mlp.c_proj.weight"), 4 * C, C, storage, rows, normal_residual, layer));
  tensors.push_back(vector(named("mlp.c_proj.bias"), C, replicated, zeros, layer));
}

}  // namespace

Inventory::Inventory(const ModelConfig& config, DType storage)
    : layers_(static_cast<std::int32_t>(config.layers + 2)) {
  using enum ShardRule;
  tensors_.push_back(
      matrix("wte.weight", config.vocab, config.hidden, storage, vocabulary, InitRule::normal, 0));
  tensors_.push_back(matrix("wpe.weight", config.context, config.hidden, storage, replicated,
                            InitRule::normal, 0));
  for (std::int64_t block = 0; block < config.layers; ++block)
    add_block(tensors_, config, storage, block);
  tensors_.push_back(vector("ln_f.weight", config.hidden, replicated, InitRule::ones, layers_ - 1));
  tensors_.push_back(vector("ln_f.bias", config.hidden, replicated, InitRule::zeros, layers_ - 1));
}

std::int64_t Inventory::total_elems() const {
  std::int64_t total = 0;
  for (const TensorSpec& tensor : tensors_) total += tensor.elems();
  return total;
}

std::int32_t Inventory::block_tensor(std::int64_t block, BlockTensor tensor) const {
  return 2 + static_cast<std::int32_t>(block) * kBlockTensors + static_cast<std::int32_t>(tensor);
}

layout::BlockTable Inventory::blocks() const {
  std::vector<layout::TensorExtent> extents;
  extents.reserve(tensors_.size());
  for (const TensorSpec& tensor : tensors_) extents.push_back({tensor.layer, tensor.elems()});
  return layout::BlockTable(std::move(extents));
}

}  // namespace elaswave::spec
