// The inventory: every parameter tensor once, by its published name, with all that init, decay,
// ownership, sharding and files need to know. Nothing else in the program lists parameters.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/error.h"
#include "io/base/types.h"
#include "model/spec/config.h"
#include "parallel/layout/blocks.h"
#include "parallel/layout/slice_map.h"

namespace elaswave::spec {

/// How a tensor splits over the slices of a tensor-parallel replica.
enum class ShardRule {
  replicated,
  columns,      // along the output dim
  qkv_columns,  // along the output dim, within each of q, k and v
  rows,         // along the input dim
  vocabulary,   // rows of the token embedding
};

enum class InitRule {
  zeros,
  ones,
  normal,           // standard deviation 0.02
  normal_residual,  // 0.02 / sqrt(2 * layers): the two projections back into the residual stream
};

struct TensorSpec {
  std::string name;                   // as in Hugging Face's GPT-2
  std::array<std::int64_t, 2> shape;  // {rows, cols}; vectors are {1, n}
  int dims = 2;
  DType storage = DType::f32;  // of the working copy; master weights and moments are always f32
  ShardRule shard = ShardRule::replicated;
  InitRule init = InitRule::zeros;
  bool decay = false;      // weight decay: matrices only
  std::int32_t layer = 0;  // home layer: 0 embedding, 1..L blocks, L + 1 head

  std::int64_t elems() const { return shape[0] * shape[1]; }
};

/// What one slice of a tensor-parallel replica holds of a tensor, as one dense array. With tensor
/// degree 1 parts are the tensors. Vocabulary slices are ceil(V / degree) rows, the last ones
/// fewer.
struct PartSpec {
  std::int32_t tensor = 0;
  std::int32_t slice = -1;  // -1: replicated, every slice holds all of it
  std::array<std::int64_t, 2> shape;
  layout::SliceMap map;

  std::int64_t elems() const { return shape[0] * shape[1]; }
};

/// Tensor numbers of a block, relative to its first tensor.
enum class BlockTensor : std::int32_t {
  ln_1_weight,
  ln_1_bias,
  c_attn_weight,
  c_attn_bias,
  attn_proj_weight,
  attn_proj_bias,
  ln_2_weight,
  ln_2_bias,
  c_fc_weight,
  c_fc_bias,
  mlp_proj_weight,
  mlp_proj_bias,
  count,
};

class Inventory {
 public:
  /// `storage` is the working type of matrices; vectors stay f32. REQUIRES: validate(config), and
  /// check_tensor_degree(config, tensor_degree).
  Inventory(const ModelConfig& config, DType storage, std::int32_t tensor_degree = 1);

  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  const TensorSpec& tensor(std::int32_t index) const {
    return tensors_[static_cast<std::size_t>(index)];
  }
  std::int32_t layers() const { return layers_; }  // L + 2
  std::int64_t total_elems() const;

  std::int32_t wte() const { return 0; }
  std::int32_t wpe() const { return 1; }
  /// `block` in [0, L).
  std::int32_t block_tensor(std::int64_t block, BlockTensor tensor) const;
  std::int32_t ln_f_weight() const { return static_cast<std::int32_t>(tensors_.size()) - 2; }
  std::int32_t ln_f_bias() const { return static_cast<std::int32_t>(tensors_.size()) - 1; }

  std::int32_t tensor_degree() const { return tensor_degree_; }
  /// Ordered by (tensor, slice).
  const std::vector<PartSpec>& parts() const { return parts_; }
  const PartSpec& part(std::int32_t index) const { return parts_[static_cast<std::size_t>(index)]; }
  /// The part of `tensor` that slice `slice` works with.
  std::int32_t part_of(std::int32_t tensor, std::int32_t slice) const;

  /// Blocks of all parts.
  layout::BlockTable blocks() const;

 private:
  void add_parts();

  std::vector<TensorSpec> tensors_;
  std::int32_t tensor_degree_;
  std::vector<PartSpec> parts_;
  std::vector<std::int32_t> first_part_;  // of each tensor
  std::int32_t layers_ = 0;
};

/// Code::usage unless every slice gets whole heads and some of the vocabulary; lists the degrees
/// that would do.
Result<void> check_tensor_degree(const ModelConfig& config, std::int64_t degree);

}  // namespace elaswave::spec
