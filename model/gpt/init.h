// Initial weights, keyed by (seed, tensor name, element): every layout starts from the same bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/spec/inventory.h"
#include "parallel/device/stream.h"
#include "parallel/zero/shard.h"

namespace elaswave::gpt {

/// Elements [begin, begin + out.size()) of one canonical tensor, whatever the layout. Normal values
/// by Box and Muller (1958) from pairs of Philox words.
void initial_values(const spec::TensorSpec& tensor, std::int64_t layers, std::uint64_t seed,
                    std::int64_t begin, std::span<float> out);

/// Bytes of one element of the working weights of each part, 0 for those not held: what TensorStore
/// is made from.
std::vector<std::int64_t> working_bytes(const spec::Inventory& inventory,
                                        const std::vector<bool>& held);

/// Master weights of the shard's blocks, backups included. Moments stay zero.
void initialize(device::CpuStream& stream, const spec::Inventory& inventory,
                const layout::BlockTable& blocks, std::uint64_t seed, zero::Shard& shard);

}  // namespace elaswave::gpt
