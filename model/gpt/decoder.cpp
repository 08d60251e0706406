#include "model/gpt/decoder.h"

#include <algorithm>

namespace elaswave::gpt {
namespace {

using spec::BlockTensor;

Result<void> check_ids(std::span<const std::int32_t> ids, const spec::ModelConfig& config,
                       std::int64_t position) {
  const std::int64_t count = std::ssize(ids);
  if (count == 0)
    return fail({.code = Code::usage,
                 .what = "there is no token to go on from",
                 .where = fmt::format("position {}", position),
                 .why = "a prediction needs at least one token before it",
                 .fix = "give a prompt of one token or more"});
  if (count > config.context - position)
    return fail({.code = Code::usage,
                 .what = "the text is longer than the model's context",
                 .where = fmt::format("position {}", position),
                 .why = fmt::format("{} more tokens do not fit into {}", count, config.context),
                 .fix = fmt::format("give at most {} tokens", config.context - position)});
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= config.vocab)
      return fail({.code = Code::usage,
                   .what = fmt::format("token {} is not in the vocabulary", ids[i]),
                   .where = fmt::format("position {}", position + static_cast<std::int64_t>(i)),
                   .why = fmt::format("the model knows tokens 0 to {}", config.vocab - 1),
                   .fix = "prepare the prompt with the tokenizer the model was trained with"});
  return {};
}

}  // namespace

Decoder::Decoder(kernels::Ops& ops, device::Stream& stream, const spec::ModelConfig& config,
                 const spec::Inventory& inventory, const layers::Parameters& parameters)
    : ops_(ops),
      stream_(stream),
      config_(config),
      inventory_(inventory),
      parameters_(parameters),
      logits_V_(static_cast<std::size_t>(config.vocab)) {
  const std::int64_t N = std::min(kChunkTokens, config.context), C = config.hidden;
  for (std::int64_t block = 0; block < config.layers; ++block) {
    keys_TC_.emplace_back(stream.device(), config.context, C, DType::f32);
    values_TC_.emplace_back(stream.device(), config.context, C, DType::f32);
  }
  for (layers::Activation* narrow : {&x_NC_, &narrow_NC_, &branch_NC_})
    *narrow = layers::Activation(stream.device(), N, C, DType::f32);
  qkv_N3C_ = layers::Activation::padded(stream.device(), N, 3 * C, DType::f32);
  wide_N4C_ = layers::Activation::padded(stream.device(), N, 4 * C, DType::f32);
  mean_N_.resize(static_cast<std::size_t>(N));
  rstd_N_.resize(static_cast<std::size_t>(N));
}

Result<std::span<const float>> Decoder::advance(std::span<const std::int32_t> ids) {
  EW_TRY(check_ids(ids, config_, position_));
  std::int64_t rows = 0;
  for (std::span<const std::int32_t> left = ids; !left.empty();) {
    const auto chunk = left.first(std::min(left.size(), std::size_t{kChunkTokens}));
    append_chunk(chunk);
    rows = std::ssize(chunk);
    left = left.subspan(chunk.size());
  }
  compute_logits(rows - 1);
  return std::span<const float>(logits_V_);
}

void Decoder::append_chunk(std::span<const std::int32_t> ids) {
  const std::int64_t rows = std::ssize(ids);
  const device::ConstMat wpe_TC = parameters_.matrix(inventory_.wpe());
  ops_.embedding_forward(stream_, {.ids_N = ids,
                                   .wte_VC = parameters_.matrix(inventory_.wte()),
                                   .wpe_TC = wpe_TC.rows_from(position_, rows),
                                   .T = rows,
                                   .x_NC = x_NC_.view().rows_from(0, rows)});
  for (std::int64_t block = 0; block < config_.layers; ++block) run_block(block, rows);
  position_ += rows;
}

void Decoder::norm(device::ConstMat x_NC, std::int32_t weight, std::int32_t bias,
                   device::Mat y_NC) {
  const auto rows = static_cast<std::size_t>(x_NC.rows);
  ops_.layernorm_forward(stream_, {.x_NC = x_NC,
                                   .gamma_C = parameters_.vector(weight),
                                   .beta_C = parameters_.vector(bias),
                                   .y_NC = y_NC,
                                   .mean_N = std::span(mean_N_).first(rows),
                                   .rstd_N = std::span(rstd_N_).first(rows)});
}

void Decoder::run_block(std::int64_t block, std::int64_t rows) {
  const auto id = [&](BlockTensor tensor) { return inventory_.block_tensor(block, tensor); };
  const auto linear = [&](device::ConstMat x, BlockTensor weight, BlockTensor bias, device::Mat y) {
    ops_.linear_forward(stream_, {.x_NC = x,
                                  .w_CD = parameters_.matrix(id(weight)),
                                  .b_D = parameters_.vector(id(bias)),
                                  .y_ND = y});
  };
  const auto index = static_cast<std::size_t>(block);
  const device::Mat x = x_NC_.view().rows_from(0, rows),
                    narrow = narrow_NC_.view().rows_from(0, rows),
                    branch = branch_NC_.view().rows_from(0, rows),
                    qkv = qkv_N3C_.view().rows_from(0, rows),
                    wide = wide_N4C_.view().rows_from(0, rows);

  norm(x, id(BlockTensor::ln_1_weight), id(BlockTensor::ln_1_bias), narrow);
  linear(narrow, BlockTensor::c_attn_weight, BlockTensor::c_attn_bias, qkv);
  ops_.attention_cached(stream_, {.qkv_N3C = qkv,
                                  .past = position_,
                                  .H = config_.heads,
                                  .keys_TC = keys_TC_[index].view(),
                                  .values_TC = values_TC_[index].view(),
                                  .out_NC = narrow});
  linear(narrow, BlockTensor::attn_proj_weight, BlockTensor::attn_proj_bias, branch);
  ops_.residual_forward(
      stream_, {.residual_NC = x, .branch_NC = branch, .T = rows, .dropout = {}, .out_NC = x});

  norm(x, id(BlockTensor::ln_2_weight), id(BlockTensor::ln_2_bias), narrow);
  linear(narrow, BlockTensor::c_fc_weight, BlockTensor::c_fc_bias, wide);
  ops_.gelu_forward(stream_, {.x = wide, .y = wide});
  linear(wide, BlockTensor::mlp_proj_weight, BlockTensor::mlp_proj_bias, branch);
  ops_.residual_forward(
      stream_, {.residual_NC = x, .branch_NC = branch, .T = rows, .dropout = {}, .out_NC = x});
}

void Decoder::compute_logits(std::int64_t row) {
  const device::Mat normed_1C = narrow_NC_.view().rows_from(0, 1);
  norm(x_NC_.view().rows_from(row, 1), inventory_.ln_f_weight(), inventory_.ln_f_bias(), normed_1C);
  // The tied head: logits = normed wte^T.
  ops_.linear_backward_input(stream_,
                             {.dy_ND = normed_1C,
                              .w_CD = parameters_.matrix(inventory_.wte()),
                              .dx_NC = device::mat(std::span(logits_V_), 1, config_.vocab)});
}

}  // namespace elaswave::gpt
