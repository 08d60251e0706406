// Memory of one rank by purpose, from shapes alone: what it will allocate before step 1, without
// allocating it. Padding of a few lines and the runtime's own memory are left out. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "model/spec/inventory.h"
#include "model/spec/stash.h"
#include "parallel/layout/plan.h"

namespace elaswave::spec {

enum class MemoryTerm : std::uint8_t {
  weights,         // working copies of all parts this rank reads, the tied embedding included
  sums,            // gradient sums of the same parts: 8 B an element, in fast mode 4
  optimizer,       // master weights and both moments of owned blocks: 12 B an element
  log,             // their mean gradients: 4 B
  backups,         // 16 B an element of each block this rank backs up
  stashes,         // F (R) to B or W
  head,            // the head's part of them, F to B or I
  weight_stashes,  // I to W
  scratch,         // of one call at a time
  boundaries,      // matrices between chunks
  logits,          // of one chunk of tokens, f32
  exchange,        // arriving sums of kExchangeWindow layers; sums over slices
  checkpoint,      // a copy of master weights and moments for the writer beside training
  count,
};
inline constexpr std::size_t kMemoryTerms = static_cast<std::size_t>(MemoryTerm::count);
/// Layers whose sums may arrive at once (parallel/zero).
inline constexpr std::int64_t kExchangeWindow = 2;
std::string_view name(MemoryTerm term);

/// Bytes, as doubles: legal keys can ask for more than 2^63.
struct MemoryTable {
  std::array<double, kMemoryTerms> bytes{};

  double& operator[](MemoryTerm term) { return bytes[static_cast<std::size_t>(term)]; }
  double operator[](MemoryTerm term) const { return bytes[static_cast<std::size_t>(term)]; }
  double total() const;
  /// The first of equals.
  MemoryTerm largest() const;
};

enum class SumWidth : std::uint8_t { exact, fast };
enum class CheckpointImage : std::uint8_t { none, kept };

/// What is the same for every rank. The references must outlive it.
struct MemoryModel {
  const ModelConfig& config;
  const Inventory& inventory;        // of the plan's tensor degree
  const layout::BlockTable& blocks;  // inventory.blocks()
  std::int64_t micro_batch = 1;      // samples
  DType storage = DType::f32;
  SumWidth sums = SumWidth::exact;
  Recompute recompute = Recompute::none;
  CheckpointImage checkpoints = CheckpointImage::none;
  std::int64_t backups = 0;              // of each block, in other domains
  std::int64_t loss_chunk_tokens = 256;  // rows of logits at once (kernels::kLossChunkTokens)
};

/// Slots of a chunk as the schedule needs them (pipeline::Slots).
struct ChunkSlots {
  std::int32_t chunk = 0;
  std::int32_t stash = 0, keep = 0, weight_stash = 0;
};
struct RankSlots {
  std::span<const ChunkSlots> chunks;
  std::int32_t boundaries = 0;
};

/// Elements that each member of each stage owns: [stage][replica * tensor_degree + slice]. One pass
/// over all blocks.
std::vector<std::vector<std::int64_t>> owned_elems(const layout::Plan& plan,
                                                   const layout::BlockTable& blocks);

/// `owned` is this rank's entry of owned_elems().
MemoryTable plan_memory(const MemoryModel& model, const layout::Plan& plan,
                        const layout::Place& place, const RankSlots& slots, std::int64_t owned);

}  // namespace elaswave::spec
