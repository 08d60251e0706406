#include "tests/support/sdpa_evaluator.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "io/base/error.h"

namespace elaswave::testing {

using kernels::kNoTensor;
using kernels::SdpaDims;
using kernels::SdpaIndex;
using kernels::SdpaKind;
using kernels::SdpaOp;
using kernels::SdpaPlace;
using kernels::SdpaTensor;

namespace {

// Elements from the first to the last.
std::int64_t extent(const SdpaTensor& tensor) {
  std::int64_t last = 0;
  for (std::size_t i = 0; i < 4; ++i) last += (tensor.dims[i] - 1) * tensor.strides[i];
  return last + 1;
}

template <typename Body>
void each(const SdpaDims& dims, const Body& body) {
  for (std::int64_t b = 0; b < dims[0]; ++b)
    for (std::int64_t h = 0; h < dims[1]; ++h)
      for (std::int64_t i = 0; i < dims[2]; ++i)
        for (std::int64_t j = 0; j < dims[3]; ++j) body(std::array<std::int64_t, 4>{b, h, i, j});
}

}  // namespace

const SdpaTensor& SdpaEvaluator::tensor(SdpaIndex index) const {
  EW_CHECK(index >= 0 && index < std::ssize(graph_->tensors), "tensor {}", index);
  return graph_->tensors[static_cast<std::size_t>(index)];
}

// Dimensions of 1 are repeated.
double& SdpaEvaluator::at(SdpaIndex index, const Place& place) {
  const SdpaTensor& of = tensor(index);
  std::int64_t offset = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    EW_CHECK(of.dims[i] == 1 || place[i] < of.dims[i], "{} has {} in dimension {}", of.name,
             of.dims[i], i);
    if (of.dims[i] != 1) offset += place[i] * of.strides[i];
  }
  const std::span<double> view = storage_[static_cast<std::size_t>(index)].view;
  EW_CHECK(offset < std::ssize(view), "element {} of {}, which has {}", offset, of.name,
           view.size());
  return view[static_cast<std::size_t>(offset)];
}

void SdpaEvaluator::prepare() {
  storage_.clear();
  storage_.resize(graph_->tensors.size());
  for (std::size_t i = 0; i < storage_.size(); ++i) {
    const SdpaTensor& of = graph_->tensors[i];
    if (of.place == SdpaPlace::memory) {
      const auto bound = memory_.find(of.binding);
      EW_CHECK(bound != memory_.end(), "no memory for {}", of.name);
      storage_[i].view = bound->second;
      continue;
    }
    const double value = of.place == SdpaPlace::scalar ? static_cast<double>(of.value)
                                                       : std::numeric_limits<double>::quiet_NaN();
    storage_[i].own.assign(static_cast<std::size_t>(extent(of)), value);
    storage_[i].view = storage_[i].own;
  }
}

void SdpaEvaluator::run(const kernels::SdpaGraph& graph) {
  graph_ = &graph;
  prepare();
  for (const SdpaOp& op : graph.ops) run(op);
}

void SdpaEvaluator::run(const SdpaOp& op) {
  switch (op.kind) {
    case SdpaKind::matmul:
      return multiply_matrices(op);
    case SdpaKind::reduce_max:
    case SdpaKind::reduce_add:
      return reduce(op);
    case SdpaKind::reinterpret:
      EW_CHECK(extent(tensor(op.a)) == extent(tensor(op.y)), "{} is not the memory of {}",
               tensor(op.y).name, tensor(op.a).name);
      storage_[static_cast<std::size_t>(op.y)].view = storage_[static_cast<std::size_t>(op.a)].view;
      return;
    default:
      each(tensor(op.y).dims, [&](const Place& place) { at(op.y, place) = pointwise(op, place); });
  }
}

void SdpaEvaluator::multiply_matrices(const SdpaOp& op) {
  const std::int64_t inner = tensor(op.a).dims[3];
  EW_CHECK(tensor(op.b).dims[2] == inner && tensor(op.a).dims[2] == tensor(op.y).dims[2] &&
               tensor(op.b).dims[3] == tensor(op.y).dims[3],
           "{} times {}", tensor(op.a).name, tensor(op.b).name);
  each(tensor(op.y).dims, [&](const Place& place) {
    double sum = 0;
    for (std::int64_t l = 0; l < inner; ++l)
      sum +=
          at(op.a, {place[0], place[1], place[2], l}) * at(op.b, {place[0], place[1], l, place[3]});
    at(op.y, place) = sum;
  });
}

void SdpaEvaluator::reduce(const SdpaOp& op) {
  const bool largest = op.kind == SdpaKind::reduce_max;
  each(tensor(op.y).dims, [&](const Place& place) {
    at(op.y, place) = largest ? -std::numeric_limits<double>::infinity() : 0;
  });
  each(tensor(op.a).dims, [&](const Place& place) {
    double& y = at(op.y, place);
    y = largest ? std::max(y, at(op.a, place)) : y + at(op.a, place);
  });
}

double SdpaEvaluator::pointwise(const SdpaOp& op, const Place& place) {
  if (op.kind == SdpaKind::index)
    return static_cast<double>(place[static_cast<std::size_t>(op.axis)]);
  const double a = at(op.a, place), b = op.b == kNoTensor ? 0 : at(op.b, place);
  switch (op.kind) {
    case SdpaKind::multiply:
      return a * b;
    case SdpaKind::add:
      return a + b;
    case SdpaKind::subtract:
      return a - b;
    case SdpaKind::divide:
      return a / b;
    case SdpaKind::exp:
      return std::exp(a);
    case SdpaKind::log:
      return std::log(a);
    case SdpaKind::greater_equal:
      return a >= b ? 1 : 0;
    case SdpaKind::select:
      return at(op.mask, place) != 0 ? a : b;
    default:
      EW_CHECK(false, "operation {} is not pointwise", static_cast<int>(op.kind));
  }
}

}  // namespace elaswave::testing
