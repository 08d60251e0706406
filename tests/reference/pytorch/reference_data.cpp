#include "tests/reference/pytorch/reference_data.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <numeric>
#include <span>
#include <sstream>
#include <string_view>

namespace elaswave::reference {
namespace {

static_assert(std::endian::native == std::endian::little, "the file holds little-endian values");

constexpr std::uint32_t kGolden32 = 0x9E3779B9u;
constexpr std::uint32_t kTokenStream = 1000;

/// murmur3's finalizer over (stream, index); make_reference.py has the same function.
constexpr std::uint32_t mixed(std::uint32_t stream, std::uint32_t index) {
  std::uint32_t x = index + stream * kGolden32;
  x ^= x >> 16;
  x *= 0x85EBCA6Bu;
  x ^= x >> 13;
  x *= 0xC2B2AE35u;
  return x ^ (x >> 16);
}

std::int64_t product(const std::vector<std::int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

tl::unexpected<Error> damaged(const std::filesystem::path& path, std::string why) {
  return fail({.code = Code::data,
               .what = "the PyTorch reference file cannot be used",
               .where = path.string(),
               .why = std::move(why),
               .fix = "make it again with tests/reference/pytorch/make_reference.py"});
}

Result<std::vector<std::int64_t>> parse_shape(const std::filesystem::path& path,
                                              const std::string& text) {
  std::vector<std::int64_t> shape;
  std::istringstream stream(text);
  for (std::string size; std::getline(stream, size, 'x');) {
    const bool digits = !size.empty() && size.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || size.size() > 9) return damaged(path, fmt::format("'{}' is not a shape", text));
    shape.push_back(std::stoll(size));
  }
  if (shape.empty() || shape.size() > 4)
    return damaged(path, fmt::format("'{}' is not a shape", text));
  return shape;
}

template <typename T>
Result<std::vector<T>> values_at(const std::filesystem::path& path, std::string_view payload,
                                 std::int64_t offset_bytes, std::int64_t elems) {
  const auto payload_bytes = static_cast<std::int64_t>(payload.size());
  const std::int64_t item_bytes = sizeof(T);
  const bool fits = offset_bytes >= 0 && offset_bytes <= payload_bytes && elems >= 0 &&
                    elems <= (payload_bytes - offset_bytes) / item_bytes;
  if (!fits) {
    return damaged(path,
                   fmt::format("{} values at byte {} of {}", elems, offset_bytes, payload_bytes));
  }
  std::vector<T> values(static_cast<std::size_t>(elems));
  std::memcpy(values.data(), payload.data() + offset_bytes, values.size() * sizeof(T));
  return values;
}

bool set_recipe(ReferenceData& data, const std::string& name, const std::string& value) {
  Recipe& recipe = data.recipe;
  const std::map<std::string, std::int64_t*> sizes = {
      {"layers", &recipe.layers}, {"heads", &recipe.heads},
      {"hidden", &recipe.hidden}, {"context", &recipe.context},
      {"vocab", &recipe.vocab},   {"samples", &recipe.samples},
      {"steps", &recipe.steps},   {"micro_batch", &recipe.micro_batch}};
  const std::map<std::string, double*> reals = {
      {"lr", &recipe.lr},       {"beta1", &recipe.beta1},
      {"beta2", &recipe.beta2}, {"epsilon", &recipe.epsilon},
      {"clip", &recipe.clip},   {"weight_decay", &recipe.weight_decay}};
  std::istringstream stream(value);
  if (name == "torch") {
    data.torch_version = value;
    return true;
  }
  if (const auto size = sizes.find(name); size != sizes.end()) return bool(stream >> *size->second);
  const auto real = reals.find(name);
  return real != reals.end() && bool(stream >> *real->second);
}

/// One index line "kind name shape offset".
Result<void> add_entry(ReferenceData& data, const std::filesystem::path& path,
                       const std::string& line, std::string_view payload) {
  std::istringstream stream(line);
  std::string kind, name, shape_text;
  stream >> kind >> name >> shape_text;
  if (kind == "config") {
    if (!set_recipe(data, name, shape_text))
      return damaged(path, fmt::format("index line '{}'", line));
    return {};
  }
  std::int64_t offset_bytes = 0;
  if (!(stream >> offset_bytes)) return damaged(path, fmt::format("index line '{}'", line));
  EW_ASSIGN(std::vector<std::int64_t> shape, parse_shape(path, shape_text));
  const std::int64_t elems = product(shape);
  if (kind == "weight") {
    EW_ASSIGN(std::vector<float> values, values_at<float>(path, payload, offset_bytes, elems));
    data.weights.push_back({name, std::move(shape), std::move(values)});
    return {};
  }
  Quantity& quantity = data.quantities[name];
  if (kind == "f32") {
    quantity.shape = std::move(shape);
    EW_ASSIGN(quantity.f32, values_at<float>(path, payload, offset_bytes, elems));
  } else if (kind == "f64") {
    EW_ASSIGN(quantity.f64, values_at<double>(path, payload, offset_bytes, elems));
  } else if (kind == "f32_error") {
    EW_ASSIGN(quantity.f32_error, values_at<double>(path, payload, offset_bytes, elems));
  } else {
    return damaged(path, fmt::format("unknown kind of entry '{}'", kind));
  }
  return {};
}

Result<void> check_complete(const ReferenceData& data, const std::filesystem::path& path) {
  for (const auto& [name, quantity] : data.quantities) {
    const auto elems = static_cast<std::size_t>(quantity.elems());
    const std::size_t errors = name.starts_with("curve/") ? elems : 1;
    if (quantity.f32.size() != elems || quantity.f64.size() != elems ||
        quantity.f32_error.size() != errors) {
      return damaged(path, fmt::format("'{}' is incomplete", name));
    }
  }
  if (data.weights.empty() || data.quantities.empty()) return damaged(path, "it holds no values");
  return {};
}

}  // namespace

std::int64_t Quantity::elems() const {
  return product(shape);
}

Result<ReferenceData> read_reference(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return damaged(path, "it cannot be opened");
  const std::string file((std::istreambuf_iterator<char>(stream)),
                         std::istreambuf_iterator<char>());
  constexpr std::string_view kMagic = "elaswave reference 1\n";
  constexpr std::string_view kEnd = "\nend\n";
  const std::size_t end = file.find(kEnd);
  if (!file.starts_with(kMagic) || end == std::string::npos)
    return damaged(path, "it has no complete index");
  // The index is padded with line ends so that the values start at a multiple of 8 bytes.
  const std::size_t payload_begin = (end + kEnd.size() + 7) / 8 * 8;
  if (payload_begin > file.size()) return damaged(path, "it ends inside the index");
  const std::string_view payload = std::string_view(file).substr(payload_begin);

  ReferenceData data;
  std::istringstream index(file.substr(kMagic.size(), end - kMagic.size()));
  for (std::string line; std::getline(index, line);) EW_TRY(add_entry(data, path, line, payload));
  EW_TRY(check_complete(data, path));
  return data;
}

WeightKind weight_kind(const std::string& name, std::int64_t dims) {
  if (dims == 2) return WeightKind::matrix;
  const bool norm = name.find("ln_") != std::string::npos && name.ends_with(".weight");
  return norm ? WeightKind::layer_norm_weight : WeightKind::other_vector;
}

float initial_weight(std::int64_t tensor, WeightKind kind, std::int64_t index) {
  const std::uint32_t bits =
      mixed(static_cast<std::uint32_t>(tensor), static_cast<std::uint32_t>(index));
  // 20 bits: with a power of two as scale, and even with 1 added, every step is exact in float.
  const float fraction = static_cast<float>(bits >> 12) * 0x1p-20f - 0.5f;
  switch (kind) {
    case WeightKind::matrix:
      return fraction * 0x1p-2f;
    case WeightKind::layer_norm_weight:
      return 1.0f + fraction * 0x1p-2f;
    case WeightKind::other_vector:
      return fraction * 0x1p-4f;
  }
  return 0;
}

std::int32_t token(const Recipe& recipe, std::int64_t step, std::int64_t sample,
                   std::int64_t position) {
  const std::int64_t index = (step * recipe.samples + sample) * (recipe.context + 1) + position;
  const std::uint32_t bits = mixed(kTokenStream, static_cast<std::uint32_t>(index));
  const auto vocab = static_cast<std::uint32_t>(recipe.vocab);
  return static_cast<std::int32_t>((bits % vocab) * ((bits >> 12) % vocab) / vocab);
}

double relative_error(const Quantity& quantity, const std::vector<double>& value) {
  EW_CHECK(value.size() == quantity.f64.size(), "{} values against {}", value.size(),
           quantity.f64.size());
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < value.size(); ++i) {
    difference += (value[i] - quantity.f64[i]) * (value[i] - quantity.f64[i]);
    size += quantity.f64[i] * quantity.f64[i];
  }
  return std::sqrt(difference / size);
}

double tolerance(const Quantity& quantity, std::int64_t index) {
  // README.md, "Tolerance".
  return 2 * quantity.f32_error.at(static_cast<std::size_t>(index)) + 4 * 0x1p-24;
}

}  // namespace elaswave::reference
