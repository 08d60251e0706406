#include "model/layers/parameters.h"

#include <cmath>

namespace elaswave::layers {

device::ConstMat Parameters::matrix(std::int32_t tensor) const {
  const spec::TensorSpec& spec = inventory_.tensor(tensor);
  return {working_.part(tensor), spec.storage, spec.shape[0], spec.shape[1], spec.shape[1]};
}

std::span<const float> Parameters::vector(std::int32_t tensor) const {
  const spec::TensorSpec& spec = inventory_.tensor(tensor);
  return {reinterpret_cast<const float*>(working_.part(tensor)),
          static_cast<std::size_t>(spec.elems())};
}

Gradients::Gradients(const spec::Inventory& inventory, zero::GradSums& sums,
                     std::int64_t micro_batches, std::int64_t tokens)
    : inventory_(inventory),
      sums_(sums),
      flags_(std::make_unique<kernels::RangeFlag[]>(inventory.tensors().size())) {
  for (std::int32_t tensor = 0; tensor < static_cast<std::int32_t>(inventory.tensors().size());
       ++tensor)
    limits_.push_back(addend_limit(micro_batches, contributions(inventory, tensor, tokens)));
}

kernels::GradSink Gradients::sink(std::int32_t tensor) {
  kernels::GradSink sink;
  if (sums_.mode() == zero::SumMode::exact)
    sink.exact = reinterpret_cast<std::int64_t*>(sums_.data(tensor));
  else
    sink.fast = reinterpret_cast<float*>(sums_.data(tensor));
  sink.elems = inventory_.tensor(tensor).elems();
  sink.overwrite = sums_.first_touch(tensor);
  sink.limit = limits_[static_cast<std::size_t>(tensor)];
  sink.flag = &flags_[static_cast<std::size_t>(tensor)];
  return sink;
}

std::vector<std::string> Gradients::bad_tensors() const {
  std::vector<std::string> names;
  for (std::size_t tensor = 0; tensor < limits_.size(); ++tensor)
    if (flags_[tensor].bad.load(std::memory_order_relaxed) != 0)
      names.push_back(inventory_.tensors()[tensor].name);
  return names;
}

void Gradients::clear_flags() {
  for (std::size_t tensor = 0; tensor < limits_.size(); ++tensor)
    flags_[tensor].bad.store(0, std::memory_order_relaxed);
}

float addend_limit(std::int64_t micro_batches, std::int64_t contributions) {
  // 2^62 on the grid of 2^-40 leaves 2^22 for the sum of all addends. Rounded down, so the bound
  // holds.
  const double limit = std::ldexp(1.0, 62 - kernels::kFractionBits) /
                       static_cast<double>(micro_batches * contributions);
  return std::nextafter(static_cast<float>(limit), 0.0f);
}

std::int64_t contributions(const spec::Inventory& inventory, std::int32_t tensor,
                           std::int64_t tokens) {
  return tensor == inventory.wte() ? 1 + kernels::loss_contributions(tokens) : 1;
}

}  // namespace elaswave::layers
