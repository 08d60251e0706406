#include "model/spec/inventory.h"

#include <fmt/format.h>

#include <algorithm>

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

/// What slice `slice` of `degree` holds.
layout::SliceMap slice_map(const TensorSpec& tensor, std::int64_t slice, std::int64_t degree) {
  const auto [rows, cols] = tensor.shape;
  layout::SliceMap map{.canonical_cols = cols, .rows = rows, .cols = cols};
  switch (tensor.shard) {
    case ShardRule::replicated:
      break;
    case ShardRule::columns:
    case ShardRule::qkv_columns:
      map.groups = tensor.shard == ShardRule::qkv_columns ? 3 : 1;
      map.cols = cols / map.groups / degree;
      map.col_begin = slice * map.cols;
      break;
    case ShardRule::rows:
      map.rows = rows / degree;
      map.row_begin = slice * map.rows;
      break;
    case ShardRule::vocabulary:
      map.row_begin = std::min(rows, slice * ceil_div(rows, degree));
      map.rows = std::min(rows, (slice + 1) * ceil_div(rows, degree)) - map.row_begin;
      break;
  }
  return map;
}

/// Every slice has something of the vocabulary, though the last may have less.
bool cuts_vocabulary(std::int64_t vocab, std::int64_t degree) {
  return (degree - 1) * ceil_div(vocab, degree) < vocab;
}

}  // namespace

Inventory::Inventory(const ModelConfig& config, DType storage, std::int32_t tensor_degree)
    : tensor_degree_(tensor_degree), layers_(static_cast<std::int32_t>(config.layers + 2)) {
  using enum ShardRule;
  tensors_.push_back(
      matrix("wte.weight", config.vocab, config.hidden, storage, vocabulary, InitRule::normal, 0));
  tensors_.push_back(matrix("wpe.weight", config.context, config.hidden, storage, replicated,
                            InitRule::normal, 0));
  for (std::int64_t block = 0; block < config.layers; ++block)
    add_block(tensors_, config, storage, block);
  tensors_.push_back(vector("ln_f.weight", config.hidden, replicated, InitRule::ones, layers_ - 1));
  tensors_.push_back(vector("ln_f.bias", config.hidden, replicated, InitRule::zeros, layers_ - 1));
  add_parts();
}

void Inventory::add_parts() {
  for (std::int32_t index = 0; index < static_cast<std::int32_t>(tensors_.size()); ++index) {
    const TensorSpec& spec = tensor(index);
    first_part_.push_back(static_cast<std::int32_t>(parts_.size()));
    const bool whole = tensor_degree_ == 1 || spec.shard == ShardRule::replicated;
    for (std::int32_t slice = 0; slice < (whole ? 1 : tensor_degree_); ++slice) {
      const layout::SliceMap map = slice_map(spec, slice, tensor_degree_);
      parts_.push_back({.tensor = index,
                        .slice = whole ? -1 : slice,
                        .shape = {map.rows, map.groups * map.cols},
                        .map = map});
    }
  }
}

std::int32_t Inventory::part_of(std::int32_t tensor, std::int32_t slice) const {
  const std::int32_t first = first_part_[static_cast<std::size_t>(tensor)];
  return part(first).slice < 0 ? first : first + slice;
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
  std::vector<layout::PartExtent> extents;
  extents.reserve(parts_.size());
  for (const PartSpec& part : parts_)
    extents.push_back({.layer = tensor(part.tensor).layer,
                       .elems = part.elems(),
                       .slice = part.slice,
                       .tied_layer = part.tensor == wte() ? layers_ - 1 : -1});
  return layout::BlockTable(std::move(extents));
}

Result<void> check_tensor_degree(const ModelConfig& config, std::int64_t degree) {
  const auto fits = [&](std::int64_t value) {
    return config.heads % value == 0 && cuts_vocabulary(config.vocab, value);
  };
  if (degree >= 1 && fits(degree)) return {};
  std::string fitting;
  for (std::int64_t value = 1; value <= config.heads; ++value)
    if (fits(value)) fitting += fmt::format("{}{}", fitting.empty() ? "" : ", ", value);
  return fail({.code = Code::usage,
               .what = fmt::format("tensor degree {} does not divide the model", degree),
               .where = "parallel.tp",
               .why = fmt::format("it has {} heads and a vocabulary of {}; each slice needs whole "
                                  "heads and a share of the vocabulary",
                                  config.heads, config.vocab),
               .fix = fmt::format("use one of {}", fitting)});
}

}  // namespace elaswave::spec
