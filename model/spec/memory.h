// Memory of one rank by purpose, from shapes alone: what it will allocate before step 1, without
// allocating it. Padding of a few lines and the runtime's own memory (on a GPU its context and the
// code of libraries) are left out. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/spec/inventory.h"
#include "model/spec/stash.h"
#include "parallel/layout/plan.h"

namespace elaswave::spec {

enum class MemoryTerm : std::uint8_t {
  weights,         // working copies of all parts this rank reads, the tied embedding included
  sums,            // gradient sums of the same parts: 8 B an element, in fast mode 4
  optimizer,       // master weights and both moments of owned blocks: 12 B an element
  log,             // their mean gradients: 4 B
  backups,         // of the copies kept here of others' blocks the same: 16 B
  stashes,         // F (R) to B or W
  head,            // the head's part of them, F to B or I
  weight_stashes,  // I to W
  scratch,     // of one call at a time, with the logits of a slice of the head, and of one block
               // of which nothing is kept
  boundaries,  // matrices between chunks
  logits,      // of one chunk of tokens, f32, with one slice
  widened,     // f32 copies of one call's bf16 operands, where kernels make such
  exchange,    // sums arriving from each peer
  slice_sums,  // arriving rows of the other slices' partial sums
  checkpoint,  // a copy of master weights and moments for the writer beside training
  // Only where the device has memory of its own (device_memory.h):
  state_copy,  // of owned blocks what optimizer and log have, where it is updated: 16 B an element
  workspaces,  // of kernels and libraries, beside the logits
  staging,     // page-locked: messages, lists and losses between host and device
  count,
};
inline constexpr std::size_t kMemoryTerms = static_cast<std::size_t>(MemoryTerm::count);
std::string_view name(MemoryTerm term);

/// Whose memory a term is of, where the device has its own. A CPU's is all the host's.
enum class Side : std::uint8_t { all, host, device };
Side side_of(MemoryTerm term);
/// Terms that a CPU has, too.
constexpr bool on_host_alone(MemoryTerm term) {
  return term < MemoryTerm::state_copy;
}
enum class DeviceMemory : std::uint8_t { shared, own };

/// Bytes, as doubles: legal keys can ask for more than 2^63.
struct MemoryTable {
  std::array<double, kMemoryTerms> bytes{};

  double& operator[](MemoryTerm term) { return bytes[static_cast<std::size_t>(term)]; }
  double operator[](MemoryTerm term) const { return bytes[static_cast<std::size_t>(term)]; }
  double total(Side side = Side::all) const;
  /// The first of equals.
  MemoryTerm largest(Side side = Side::all) const;
};

/// How kernels take what is stored in bf16: as it is, or copied to f32 for each call (on a CPU).
enum class Operands : std::uint8_t { stored, widened };
enum class SumWidth : std::uint8_t { exact, fast };
enum class CheckpointImage : std::uint8_t { none, kept };

/// What is the same for every rank. The references must outlive it.
struct MemoryModel {
  const ModelConfig& config;
  const Inventory& inventory;        // of the plan's tensor degree
  const layout::BlockTable& blocks;  // inventory.blocks()
  std::int64_t micro_batch = 1;      // samples
  DType storage = DType::f32;
  Operands operands = Operands::stored;
  SumWidth sums = SumWidth::exact;
  Recompute recompute = Recompute::none;
  CheckpointImage checkpoints = CheckpointImage::none;
  /// Copies of each block, for plans without any yet: as dealing shares them out evenly, a rank
  /// then keeps as much for others as it owns. A plan's own copies are counted as they are.
  std::int64_t backups = 0;
  std::int64_t loss_chunk_tokens = 0;  // rows of logits at once: above 0
  DeviceMemory device = DeviceMemory::shared;
};

/// Slots of a chunk as the schedule needs them (pipeline::Slots).
struct ChunkSlots {
  std::int32_t chunk = 0;
  std::int32_t stash = 0, keep = 0, weight_stash = 0;
};
struct RankSlots {
  std::span<const ChunkSlots> chunks;
  std::int32_t boundaries = 0;
  std::int32_t messages = 0;  // between chunks, under way at once
  std::int32_t forwards = 0;  // of the last of the chunks, in a step
};

/// Elements of the blocks that a rank owns.
struct OwnedElems {
  std::int64_t elems = 0;
  std::int64_t copies = 0;  // of the blocks of others that it keeps copies of
  /// Of the buffers for sums on their way here (zero::Reducer): for each peer what this rank owns
  /// of two neighbouring units, the largest such pair. A unit is the parts of a layer with the same
  /// members; units follow each other from the last layer to the first, as backward passes do.
  std::int64_t arriving = 0;
  /// The largest unit, as often as there are such buffers: what messages to them take on their way.
  std::int64_t landing = 0;
  std::int64_t told = 0;    // elements, as often as others read them
  std::int64_t blocks = 0;  // owned
};
/// Of each member of each stage: [stage][replica * tensor_degree + slice]. One pass over all
/// blocks.
using OwnedByStage = std::vector<std::vector<OwnedElems>>;
OwnedByStage owned_elems(const layout::Plan& plan, const layout::BlockTable& blocks);
/// OwnedElems::copies of every world rank, spares included.
std::vector<std::int64_t> copy_elems(const layout::Plan& plan, const layout::BlockTable& blocks);

/// Memory of the ranks of one layout; schedules may differ. The arguments must outlive it.
class PlanMemory {
 public:
  /// Of `plan` no route, row or owner is read.
  PlanMemory(const MemoryModel& model, const layout::Plan& plan);

  /// `owned` is the rank's entry of owned_elems(). A rank without a place keeps copies and nothing
  /// else.
  MemoryTable table(const layout::Place& place, const RankSlots& slots,
                    const OwnedElems& owned) const;
  /// The part of it that grows with what a rank owns.
  double owned_bytes(const OwnedElems& owned, Side side = Side::all) const;

 private:
  struct Held {
    double weight_bytes = 0, elems = 0;
  };
  Held& held(std::int32_t stage, std::int32_t slice) {
    return held_[static_cast<std::size_t>(std::int64_t{stage} * plan_.tensor_degree + slice)];
  }
  void add_part(std::int32_t index, std::int32_t stage);
  void add_owned(const OwnedElems& owned, MemoryTable& table) const;
  void add_device(const StashShape& shape, const LayerKinds& kinds, const RankSlots& slots,
                  const OwnedElems& owned, const Held& parts, MemoryTable& table) const;

  const MemoryModel& model_;
  const layout::Plan& plan_;
  std::vector<Held> held_;  // [stage * tensor_degree + slice]
};

}  // namespace elaswave::spec
