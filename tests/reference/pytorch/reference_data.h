// Reads gpt2_small.ref, the reference values make_reference.py computed with PyTorch, and repeats
// the closed formulas for its weights and tokens. Format, formulas and the tolerance are derived in
// README.md. Plain owned values; no threads; a damaged file is an Error with Code::data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "io/base/error.h"

namespace elaswave::reference {

/// One quantity: its float32 values, its float64 values (the judge) and PyTorch's own relative
/// float32 error.
struct Quantity {
  std::vector<std::int64_t> shape;
  std::vector<float> f32;
  std::vector<double> f64;
  std::vector<double> f32_error;  // one number; for a curve one per step, the worst up to that step

  std::int64_t elems() const;
};

/// The recipe the values belong to.
struct Recipe {
  std::int64_t layers = 0, heads = 0, hidden = 0, context = 0, vocab = 0;
  std::int64_t samples = 0, micro_batch = 0, steps = 0;
  double lr = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0, clip = 0;
};

struct Weight {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<float> values;  // row-major, matrices in the Conv1D layout [in, out]
};

struct ReferenceData {
  std::string torch_version;
  Recipe recipe;
  std::vector<Weight> weights;  // in the order that numbers the tensors
  std::map<std::string, Quantity> quantities;
};

/// Everything in the file, checked for length and completeness.
Result<ReferenceData> read_reference(const std::filesystem::path& path);

/// Element `index` of initial tensor number `tensor`; exact, so equal to the stored value bit for
/// bit.
enum class WeightKind { matrix, layer_norm_weight, other_vector };
float initial_weight(std::int64_t tensor, WeightKind kind, std::int64_t index);

/// What formula the tensor of that name follows.
WeightKind weight_kind(const std::string& name, std::int64_t dims);

/// Token `position` (0 .. context inclusive: one more than the model sees) of `sample` in `step`
/// (1, 2, ...).
std::int32_t token(const Recipe& recipe, std::int64_t step, std::int64_t sample,
                   std::int64_t position);

/// ||value - f64||_2 / ||f64||_2. REQUIRES: as many values as the quantity has.
double relative_error(const Quantity& quantity, const std::vector<double>& value);

/// What relative_error may reach: 2 x PyTorch's own float32 error + 4 float32 roundings. For a
/// curve `index` is the step counted from 0; otherwise 0.
double tolerance(const Quantity& quantity, std::int64_t index = 0);

}  // namespace elaswave::reference
