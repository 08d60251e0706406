#include "model/layers/parameters.h"

#include <cmath>

namespace elaswave::layers {

device::ConstMat Parameters::matrix(std::int32_t tensor) const {
  const std::int32_t index = inventory_.part_of(tensor, slice_);
  const auto [rows, cols] = inventory_.part(index).shape;
  return {working_.part(index), inventory_.tensor(tensor).storage, rows, cols, cols};
}

std::span<const float> Parameters::vector(std::int32_t tensor) const {
  const std::int32_t index = inventory_.part_of(tensor, slice_);
  return {reinterpret_cast<const float*>(working_.part(index)),
          static_cast<std::size_t>(inventory_.part(index).elems())};
}

Gradients::Gradients(const spec::Inventory& inventory, zero::GradSums& sums,
                     std::int64_t micro_batches, std::int64_t head_addends, std::int32_t slice)
    : inventory_(inventory),
      sums_(sums),
      slice_(slice),
      flags_(sums.arithmetic().device(), std::ssize(inventory.tensors()), device::Space::host) {
  for (std::int32_t tensor = 0; tensor < static_cast<std::int32_t>(inventory.tensors().size());
       ++tensor)
    limits_.push_back(addend_limit(micro_batches, contributions(inventory, tensor, head_addends)));
}

kernels::GradSink Gradients::sink(std::int32_t tensor) {
  const std::int32_t part = inventory_.part_of(tensor, slice_);
  kernels::GradSink sink;
  if (sums_.mode() == zero::SumMode::exact)
    sink.exact = reinterpret_cast<std::int64_t*>(sums_.data(part));
  else
    sink.fast = reinterpret_cast<float*>(sums_.data(part));
  sink.elems = inventory_.part(part).elems();
  sink.overwrite = sums_.first_touch(part);
  sink.limit = limits_[static_cast<std::size_t>(tensor)];
  sink.flag = &flags_.span()[static_cast<std::size_t>(tensor)];
  return sink;
}

std::vector<std::string> Gradients::bad_tensors() const {
  std::vector<std::string> names;
  for (std::size_t tensor = 0; tensor < limits_.size(); ++tensor)
    if (flags_.span()[tensor].bad.load(std::memory_order_relaxed) != 0)
      names.push_back(inventory_.tensors()[tensor].name);
  return names;
}

void Gradients::clear_flags() {
  for (std::size_t tensor = 0; tensor < limits_.size(); ++tensor)
    flags_.span()[tensor].bad.store(0, std::memory_order_relaxed);
}

float addend_limit(std::int64_t micro_batches, std::int64_t contributions) {
  // 2^62 on the grid of 2^-40 leaves 2^22 for the sum of all addends. Rounded down, so the bound
  // holds.
  const double limit = std::ldexp(1.0, 62 - kernels::kFractionBits) /
                       static_cast<double>(micro_batches * contributions);
  return std::nextafter(static_cast<float>(limit), 0.0f);
}

std::int64_t contributions(const spec::Inventory& inventory, std::int32_t tensor,
                           std::int64_t head_addends) {
  if (tensor == inventory.wte()) return 1 + head_addends;
  const bool replicated = inventory.tensor(tensor).shard == spec::ShardRule::replicated;
  return replicated ? inventory.tensor_degree() : 1;
}

}  // namespace elaswave::layers
