#include "model/gpt/init.h"

#include <cmath>
#include <cstring>

#include "io/base/bf16.h"
#include "io/base/philox.h"
#include "model/optim/math.h"

namespace elaswave::gpt {
namespace {

constexpr double kInitDeviation = 0.02;  // GPT-2 and its published code

struct NormalPair {
  float even = 0, odd = 0;
};

/// Pair p, elements 2p and 2p + 1, comes from words 2p and 2p + 1 of the stream.
NormalPair normal_pair(const RandomStream& stream, double deviation, std::uint64_t pair) {
  const auto words = philox(stream, pair / 2);
  const double u = (words[pair % 2 * 2] + 0.5) * 0x1p-32, angle = words[pair % 2 * 2 + 1] * 0x1p-32;
  const double radius = deviation * std::sqrt(-2 * optim::natural_log(u));
  return {static_cast<float>(radius * optim::cos_turns(angle)),
          static_cast<float>(radius * optim::sin_turns(angle))};
}

void normal_values(const RandomStream& stream, double deviation, std::int64_t begin,
                   std::span<float> out) {
  if (out.empty()) return;
  const auto first = static_cast<std::uint64_t>(begin);
  std::size_t i = 0;
  if (first % 2 == 1) out[i++] = normal_pair(stream, deviation, first / 2).odd;
  for (; i < out.size(); i += 2) {
    const NormalPair pair = normal_pair(stream, deviation, (first + i) / 2);
    out[i] = pair.even;
    if (i + 1 < out.size()) out[i + 1] = pair.odd;
  }
}

}  // namespace

void initial_values(const spec::TensorSpec& tensor, std::int64_t layers, std::uint64_t seed,
                    std::int64_t begin, std::span<float> out) {
  const double residual = kInitDeviation / std::sqrt(2.0 * static_cast<double>(layers));
  switch (tensor.init) {
    case spec::InitRule::zeros:
      std::fill(out.begin(), out.end(), 0.0f);
      return;
    case spec::InitRule::ones:
      std::fill(out.begin(), out.end(), 1.0f);
      return;
    case spec::InitRule::normal:
    case spec::InitRule::normal_residual: {
      const RandomStream stream = random_stream(seed, RandomUse::init, hash_text(tensor.name));
      normal_values(stream, tensor.init == spec::InitRule::normal ? kInitDeviation : residual,
                    begin, out);
      return;
    }
  }
}

std::vector<std::int64_t> working_bytes(const spec::Inventory& inventory,
                                        const std::vector<bool>& held) {
  std::vector<std::int64_t> bytes;
  for (std::size_t part = 0; part < held.size(); ++part) {
    const std::int32_t tensor = inventory.parts()[part].tensor;
    bytes.push_back(held[part] ? size_bytes(inventory.tensor(tensor).storage) : 0);
  }
  return bytes;
}

void initialize(device::CpuStream& stream, const spec::Inventory& inventory,
                const layout::BlockTable& blocks, std::uint64_t seed, zero::Shard& shard) {
  const auto owned = std::ssize(shard.owned());
  const std::int64_t layers = inventory.layers() - 2;
  stream.pool().run(owned + std::ssize(shard.backups()), [&](std::int64_t task) {
    const bool backup = task >= owned;
    const zero::HeldBlock& mine = backup ? shard.backups()[static_cast<std::size_t>(task - owned)]
                                         : shard.owned()[static_cast<std::size_t>(task)];
    const layout::Block& block = blocks.block(mine.block);
    const spec::PartSpec& part = inventory.part(block.part);
    const spec::TensorSpec& tensor = inventory.tensor(part.tensor);
    part.map.visit_runs(
        block.begin, block.elems,
        [&](std::int64_t index, std::int64_t element, std::int64_t length) {
          initial_values(tensor, layers, seed, element,
                         shard.master(mine).subspan(static_cast<std::size_t>(index - block.begin),
                                                    static_cast<std::size_t>(length)));
        });
  });
}

}  // namespace elaswave::gpt
