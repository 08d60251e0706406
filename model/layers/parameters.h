// Tensors by inventory number: the working weights that layers read and the sinks that gradients go
// into.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/kernels/ops.h"
#include "model/spec/inventory.h"
#include "parallel/zero/store.h"

namespace elaswave::layers {

/// Views of the working weights of one slice: shapes are those of its parts. Owns nothing.
class Parameters {
 public:
  Parameters(const spec::Inventory& inventory, zero::TensorStore& working, std::int32_t slice = 0)
      : inventory_(inventory), working_(working), slice_(slice) {}
  device::ConstMat matrix(std::int32_t tensor) const;
  std::span<const float> vector(std::int32_t tensor) const;

 private:
  const spec::Inventory& inventory_;
  zero::TensorStore& working_;
  std::int32_t slice_;
};

/// Sinks for the gradients of one slice, and the flags that tell which tensors left the range of
/// the exact sums.
class Gradients {
 public:
  /// `micro_batches` is G and `head_addends` kernels::loss_contributions() of one micro-batch:
  /// together they bound the addends of an element.
  Gradients(const spec::Inventory& inventory, zero::GradSums& sums, std::int64_t micro_batches,
            std::int64_t head_addends, std::int32_t slice = 0);

  kernels::GradSink sink(std::int32_t tensor);
  /// Names of tensors with a non-finite or out-of-range addend since clear_flags(). REQUIRES, as
  /// clear_flags(): the device has come to the end of what adds to the sums.
  std::vector<std::string> bad_tensors() const;
  void clear_flags();
  std::int64_t flag_bytes() const { return flags_.size_bytes(); }  // of the host

 private:
  const spec::Inventory& inventory_;
  zero::GradSums& sums_;
  std::int32_t slice_;
  std::vector<float> limits_;
  device::Array<kernels::RangeFlag> flags_;
};

/// |g| must stay below this for one addend, so that `micro_batches * contributions` of them fit 63
/// bits with one to spare. Number of contributions to an element in one micro-batch: one, for the
/// tied embedding those of the head's chunks too, and for a replicated tensor one of each slice.
float addend_limit(std::int64_t micro_batches, std::int64_t contributions);
std::int64_t contributions(const spec::Inventory& inventory, std::int32_t tensor,
                           std::int64_t head_addends);

}  // namespace elaswave::layers
