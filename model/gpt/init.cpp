#include "model/gpt/init.h"

#include <cmath>
#include <cstring>

#include "io/base/bf16.h"
#include "io/base/philox.h"
#include "model/optim/math.h"

namespace elaswave::gpt {
namespace {

constexpr double kInitDeviation = 0.02;  // GPT-2 and its published code

void normal_values(const RandomStream& stream, double deviation, std::int64_t begin,
                   std::span<float> out) {
  // Pair p of elements (2p, 2p + 1) uses words 2p and 2p + 1 of the stream.
  for (std::size_t i = 0; i < out.size(); i += 2) {
    const std::uint64_t pair = (static_cast<std::uint64_t>(begin) + i) / 2;
    const auto words = philox(stream, pair / 2);
    const double u = (words[pair % 2 * 2] + 0.5) * 0x1p-32,
                 angle = words[pair % 2 * 2 + 1] * 0x1p-32;
    const double radius = deviation * std::sqrt(-2 * optim::natural_log(u));
    out[i] = static_cast<float>(radius * optim::cos_turns(angle));
    if (i + 1 < out.size()) out[i + 1] = static_cast<float>(radius * optim::sin_turns(angle));
  }
}

}  // namespace

void initial_values(const spec::TensorSpec& tensor, std::int64_t layers, std::uint64_t seed,
                    std::int64_t begin, std::span<float> out) {
  EW_DCHECK(begin % 2 == 0, "initial values from odd element {}", begin);
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

void store_working(std::span<const float> master, DType storage, std::span<std::byte> working) {
  if (storage == DType::f32) {
    std::memcpy(working.data(), master.data(), master.size_bytes());
    return;
  }
  auto* out = reinterpret_cast<bf16*>(working.data());
  for (std::size_t i = 0; i < master.size(); ++i) out[i] = to_bf16(master[i]);
}

void initialize(device::CpuStream& stream, const spec::Inventory& inventory,
                const layout::BlockTable& blocks, std::uint64_t seed, zero::Shard& shard,
                zero::TensorStore& working) {
  const auto owned = shard.owned();
  const std::int64_t layers = inventory.layers() - 2;
  stream.pool().run(static_cast<std::int64_t>(owned.size()), [&](std::int64_t task) {
    const zero::OwnedBlock& mine = owned[static_cast<std::size_t>(task)];
    const layout::Block& block = blocks.block(mine.block);
    const spec::TensorSpec& tensor = inventory.tensor(block.tensor);
    initial_values(tensor, layers, seed, block.begin, shard.master(mine));
    store_working(shard.master(mine), tensor.storage, working.bytes(block));
  });
}

}  // namespace elaswave::gpt
