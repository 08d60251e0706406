#include "model/spec/memory.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "io/base/error.h"
#include "model/spec/device_memory.h"

namespace elaswave::spec {
namespace {

constexpr double kFloat = sizeof(float);

double sum_bytes(const MemoryModel& model) {
  return model.sums == SumWidth::exact ? 8 : 4;
}

std::int32_t stage_of(const layout::Plan& plan, std::int32_t layer) {
  return layer < 0 ? -1 : plan.stage_of_layer(layer);
}

/// What the chunks of one rank need.
class ChunkMemory {
 public:
  ChunkMemory(const MemoryModel& model, const layout::Plan& plan, const StashShape& shape,
              MemoryTable& table)
      : model_(model), plan_(plan), shape_(shape), table_(table) {}

  void add(const ChunkSlots& slots) {
    const layout::LayerRange range = layout::layers_of_chunk(plan_, slots.chunk);
    const std::int32_t head = plan_.layers() - 1;
    const std::int32_t blocks = std::max(0, std::min(range.end, head) - std::max(range.begin, 1));
    if (range.begin == 0) kinds_.embedding = true;
    const DType storage = model_.storage;
    if (blocks > 0) {
      kinds_.blocks = true;
      stashes_ = stashes_ || slots.stash > 0;
      const double one = block_stash(shape_, model_.recompute).size_bytes(storage);
      const double inner = block_input(shape_).size_bytes(storage);
      table_[MemoryTerm::stashes] += slots.stash * (static_cast<double>(blocks) * one +
                                                    static_cast<double>(blocks - 1) * inner);
      table_[MemoryTerm::weight_stashes] += slots.weight_stash * static_cast<double>(blocks) *
                                            weight_stash(shape_).size_bytes(storage);
    }
    if (range.end <= head) return;
    kinds_.head = true;
    const HeadInput input = blocks > 0 ? HeadInput::own : HeadInput::boundary;
    // Validation needs one where no micro-batch is trained on.
    table_[MemoryTerm::head] +=
        std::max(slots.keep, 1) * head_stash(shape_, input).size_bytes(storage);
    if (shape_.slices > 1) return;
    const auto rows = static_cast<double>(std::min(shape_.tokens, model_.loss_chunk_tokens));
    table_[MemoryTerm::logits] = kFloat * rows * static_cast<double>(model_.config.vocab);
  }

  const LayerKinds& kinds() const { return kinds_; }

  void add_scratch() {
    double& bytes = table_[MemoryTerm::scratch];
    bytes += layer_scratch(shape_, model_.recompute, kinds_).size_bytes(model_.storage);
    if (kinds_.head) bytes += sliced_head(shape_, model_.loss_chunk_tokens).size_bytes();
    // F under full recompute keeps nothing; validation has no stash to borrow on an idle rank.
    if (kinds_.blocks && (model_.recompute == Recompute::full || !stashes_))
      bytes += block_stash(shape_, model_.recompute).size_bytes(model_.storage);
    if (model_.storage == DType::bf16 && model_.operands == Operands::widened)
      table_[MemoryTerm::widened] =
          kFloat * widened_elems(shape_, kinds_, model_.loss_chunk_tokens);
  }

 private:
  const MemoryModel& model_;
  const layout::Plan& plan_;
  const StashShape& shape_;
  MemoryTable& table_;
  LayerKinds kinds_;
  bool stashes_ = false;
};

constexpr std::int64_t kWindowUnits = 2;  // zero::Reducer::kWindowUnits

/// Kinds of units, as bits: who shares them. Bit 0: all slices; bit 1: also the tied layer's stage.
constexpr std::size_t kReplicated = 1, kTied = 2, kUnitKinds = 4;

/// Two units that follow each other, the largest such pair, by what their kinds have at least. What
/// a member owns nothing of is not sent to it.
class LargestNeighbours {
 public:
  void add(std::size_t kind, std::int64_t elems) {
    for (std::size_t least = 0; least < kUnitKinds; ++least) {
      if ((kind & least) != least) continue;
      Pair& pair = pairs_[least];
      pair.most = std::max(pair.most, pair.last + elems);
      pair.last = elems;
      pair.largest = std::max(pair.largest, elems);
    }
  }
  std::int64_t of(std::size_t least) const { return pairs_[least].most; }
  std::int64_t largest() const { return pairs_[0].largest; }

 private:
  struct Pair {
    std::int64_t last = 0, most = 0, largest = 0;
  };
  std::array<Pair, kUnitKinds> pairs_{};
};

/// One pass over the blocks of a plan.
class Ownership {
 public:
  Ownership(const layout::Plan& plan, const layout::BlockTable& blocks)
      : plan_(plan), blocks_(blocks) {
    for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage) {
      const auto members =
          static_cast<std::size_t>(std::int64_t{plan.replicas(stage)} * plan.tensor_degree);
      owned_.emplace_back(members);
      largest_.emplace_back(members);
      tied_stage_.push_back(-1);
    }
  }

  OwnedByStage find() && {
    for (std::int32_t layer = blocks_.layers(); layer-- > 0;) add_layer(layer);
    for (std::size_t stage = 0; stage < owned_.size(); ++stage)
      for (std::size_t member = 0; member < owned_[stage].size(); ++member) {
        const LargestNeighbours& largest = largest_[stage][member];
        OwnedElems& owned = owned_[stage][member];
        owned.arriving = of_peers(stage, [&](std::size_t least) { return largest.of(least); });
        owned.landing = kWindowUnits * largest.largest() * of_peers(stage, [&](std::size_t least) {
                          return std::int64_t{largest.of(least) > 0};
                        });
      }
    return std::move(owned_);
  }

 private:
  void add_layer(std::int32_t layer) {
    const std::int32_t home = plan_.stage_of_layer(layer);
    const auto stage = static_cast<std::size_t>(home);
    units_.assign(owned_[stage].size(), {});
    kinds_.clear();
    for (std::int64_t index = blocks_.layer_begin(layer); index < blocks_.layer_begin(layer + 1);
         ++index) {
      const layout::Block& block = blocks_.block(index);
      const layout::PartExtent& part = blocks_.part(block.part);
      const std::int32_t tied = stage_of(plan_, part.tied_layer);
      std::size_t kind = part.slice < 0 || plan_.tensor_degree == 1 ? kReplicated : 0;
      if (tied >= 0 && tied != home) {
        kind |= kTied;
        tied_stage_[stage] = tied;
      }
      const auto member = static_cast<std::size_t>(plan_.owner[static_cast<std::size_t>(index)]);
      if (std::find(kinds_.begin(), kinds_.end(), kind) == kinds_.end()) kinds_.push_back(kind);
      OwnedElems& owned = owned_[stage][member];
      owned.elems += block.elems;
      owned.told += block.elems * (members(stage, kind) - 1);
      ++owned.blocks;
      units_[member][kind] += block.elems;
    }
    for (std::size_t member = 0; member < units_.size(); ++member)
      for (const std::size_t kind : kinds_)
        if (units_[member][kind] > 0) largest_[stage][member].add(kind, units_[member][kind]);
  }

  /// Peers of the same slice share all units, those of others what all slices hold; a tied stage
  /// the tied ones of these: the sum over all peers of what one has that shares units of at least a
  /// kind.
  template <typename Of>
  std::int64_t of_peers(std::size_t stage, Of of) const {
    const std::int64_t others = plan_.tensor_degree - 1;
    const std::int64_t replicas = plan_.replicas(static_cast<std::int32_t>(stage));
    std::int64_t sum = (replicas - 1) * of(0) + replicas * others * of(kReplicated);
    if (tied_stage_[stage] >= 0)
      sum += plan_.replicas(tied_stage_[stage]) * (of(kTied) + others * of(kTied | kReplicated));
    return sum;
  }
  /// Of a unit of that kind.
  std::int64_t members(std::size_t stage, std::size_t kind) const {
    std::int64_t replicas = plan_.replicas(static_cast<std::int32_t>(stage));
    if ((kind & kTied) != 0) replicas += plan_.replicas(tied_stage_[stage]);
    return replicas * ((kind & kReplicated) != 0 ? plan_.tensor_degree : 1);
  }

  const layout::Plan& plan_;
  const layout::BlockTable& blocks_;
  OwnedByStage owned_;
  std::vector<std::vector<LargestNeighbours>> largest_;
  std::vector<std::int32_t> tied_stage_;  // by home stage; -1: none
  std::vector<std::size_t> kinds_;        // of one layer, in the order of their first parts
  std::vector<std::array<std::int64_t, kUnitKinds>> units_;  // of one layer, by member
};

}  // namespace

std::string_view name(MemoryTerm term) {
  constexpr std::array<std::string_view, kMemoryTerms> names = {
      "weights",  "gradient sums",  "optimizer",  "log",        "backups",    "stashes",
      "head",     "weight stashes", "scratch",    "boundaries", "logits",     "widened",
      "exchange", "slice sums",     "checkpoint", "state copy", "workspaces", "staging"};
  return names[static_cast<std::size_t>(term)];
}

Side side_of(MemoryTerm term) {
  switch (term) {
    case MemoryTerm::optimizer:
    case MemoryTerm::log:
    case MemoryTerm::backups:
    case MemoryTerm::checkpoint:
    case MemoryTerm::staging:
      return Side::host;
    default:
      return Side::device;
  }
}

double MemoryTable::total(Side side) const {
  double sum = 0;
  for (std::size_t index = 0; index < kMemoryTerms; ++index)
    if (side == Side::all || side == side_of(static_cast<MemoryTerm>(index))) sum += bytes[index];
  return sum;
}

MemoryTerm MemoryTable::largest(Side side) const {
  MemoryTable seen;
  for (std::size_t index = 0; index < kMemoryTerms; ++index)
    if (side == Side::all || side == side_of(static_cast<MemoryTerm>(index)))
      seen.bytes[index] = bytes[index];
  return static_cast<MemoryTerm>(std::max_element(seen.bytes.begin(), seen.bytes.end()) -
                                 seen.bytes.begin());
}

OwnedByStage owned_elems(const layout::Plan& plan, const layout::BlockTable& blocks) {
  OwnedByStage owned = Ownership(plan, blocks).find();
  if (plan.copies == 0) return owned;
  const std::vector<std::int64_t> copies = copy_elems(plan, blocks);
  for (std::size_t stage = 0; stage < owned.size(); ++stage) {
    auto member = owned[stage].begin();
    for (const layout::Replica& replica : plan.stages[stage].replicas)
      for (const std::int32_t rank : replica.world_ranks)
        (member++)->copies = copies[static_cast<std::size_t>(rank)];
  }
  return owned;
}

std::vector<std::int64_t> copy_elems(const layout::Plan& plan, const layout::BlockTable& blocks) {
  std::vector<std::int64_t> elems(static_cast<std::size_t>(layout::members(plan).back()) + 1);
  if (plan.copies == 0) return elems;
  for (std::int64_t block = 0; block < blocks.count(); ++block)
    for (const std::int32_t rank : plan.backups_of(block))
      if (rank >= 0) elems[static_cast<std::size_t>(rank)] += blocks.block(block).elems;
  return elems;
}

PlanMemory::PlanMemory(const MemoryModel& model, const layout::Plan& plan)
    : model_(model),
      plan_(plan),
      held_(plan.stages.size() * static_cast<std::size_t>(plan.tensor_degree)) {
  EW_CHECK(model.loss_chunk_tokens > 0, "logits of {} tokens at once", model.loss_chunk_tokens);
  for (std::int32_t index = 0; index < model.blocks.parts(); ++index) {
    const layout::PartExtent& part = model.blocks.part(index);
    const std::int32_t home = plan.stage_of_layer(part.layer);
    const std::int32_t tied = stage_of(plan, part.tied_layer);
    add_part(index, home);
    if (tied >= 0 && tied != home) add_part(index, tied);
  }
}

void PlanMemory::add_part(std::int32_t index, std::int32_t stage) {
  const layout::PartExtent& part = model_.blocks.part(index);
  const auto elems = static_cast<double>(part.elems);
  // Vectors are always f32.
  const DType storage = model_.inventory.tensor(model_.inventory.part(index).tensor).storage;
  const std::int32_t first = part.slice < 0 ? 0 : part.slice;
  const std::int32_t end = part.slice < 0 ? plan_.tensor_degree : part.slice + 1;
  for (std::int32_t slice = first; slice < end; ++slice) {
    held(stage, slice).weight_bytes += static_cast<double>(size_bytes(storage)) * elems;
    held(stage, slice).elems += elems;
  }
}

void PlanMemory::add_owned(const OwnedElems& owned, MemoryTable& table) const {
  const auto elems = static_cast<double>(owned.elems);
  table[MemoryTerm::optimizer] = 3 * kFloat * elems;
  table[MemoryTerm::log] = kFloat * elems;
  table[MemoryTerm::backups] = 4 * kFloat *
                               (plan_.copies > 0 ? static_cast<double>(owned.copies)
                                                 : elems * static_cast<double>(model_.backups));
  if (model_.checkpoints == CheckpointImage::kept)
    table[MemoryTerm::checkpoint] = 3 * kFloat * elems;
  table[MemoryTerm::exchange] = sum_bytes(model_) * static_cast<double>(owned.arriving);
  if (model_.device == DeviceMemory::own) table[MemoryTerm::state_copy] = 4 * kFloat * elems;
}

double PlanMemory::owned_bytes(const OwnedElems& owned, Side side) const {
  MemoryTable table;
  add_owned(owned, table);
  return table.total(side);
}

void PlanMemory::add_device(const StashShape& shape, const LayerKinds& kinds,
                            const RankSlots& slots, const OwnedElems& owned, const Held& parts,
                            MemoryTable& table) const {
  const auto elems = static_cast<double>(owned.elems), told = static_cast<double>(owned.told);
  // A rank without a micro-batch calls nothing of a layer.
  const DeviceCalls calls{.shape = shape,
                          .kinds = slots.forwards > 0 ? kinds : LayerKinds(),
                          .samples = model_.micro_batch,
                          .storage = model_.storage,
                          .exact = model_.sums == SumWidth::exact,
                          .dropout = model_.config.dropout > 0,
                          .loss_chunk_tokens = model_.loss_chunk_tokens,
                          .owned_blocks = owned.blocks};
  const DeviceScratch scratch = device_scratch(calls);
  if (slots.forwards == 0) table[MemoryTerm::slice_sums] = 0;
  table[MemoryTerm::logits] = scratch.logits;
  table[MemoryTerm::workspaces] = scratch.workspaces;
  // As an owner's share of each part is about that of all elements. Sums travel to owners, weights
  // from them.
  const double weight_bytes = parts.elems > 0 ? parts.weight_bytes / parts.elems : 0;
  const double exchanged = (sum_bytes(model_) + weight_bytes) * (parts.elems - elems) +
                           weight_bytes * told +
                           sum_bytes(model_) * static_cast<double>(owned.landing);
  const double between =
      slots.messages * block_input(shape).size_bytes(model_.storage) + slice_messages(calls);
  const double losses =
      kinds.head ? kFloat * slots.forwards * static_cast<double>(shape.tokens) : 0;
  const double tokens = kinds.embedding || kinds.head
                            ? kTokensAhead * 2 * kFloat * static_cast<double>(shape.tokens)
                            : 0;
  const auto flags = static_cast<double>(model_.inventory.tensors().size()) * kFloat;
  table[MemoryTerm::staging] = exchanged + between + losses + tokens + flags + scratch.lists;
}

MemoryTable PlanMemory::table(const layout::Place& place, const RankSlots& slots,
                              const OwnedElems& owned) const {
  MemoryTable table;
  if (place.stage < 0) {
    add_owned(owned, table);
    return table;
  }
  const Held& parts = held_[static_cast<std::size_t>(
      std::int64_t{place.stage} * plan_.tensor_degree + place.slice)];
  table[MemoryTerm::weights] = parts.weight_bytes;
  table[MemoryTerm::sums] = sum_bytes(model_) * parts.elems;
  add_owned(owned, table);
  const StashShape shape(model_.config, model_.micro_batch, plan_.tensor_degree, place.slice);
  ChunkMemory chunks(model_, plan_, shape, table);
  for (const ChunkSlots& chunk : slots.chunks) chunks.add(chunk);
  chunks.add_scratch();
  table[MemoryTerm::boundaries] = slots.boundaries * block_input(shape).size_bytes(model_.storage);
  // f32 throughout (comm::SliceGroup).
  table[MemoryTerm::slice_sums] =
      static_cast<double>(shape.slices - 1) * block_input(shape).size_bytes(DType::f32);
  if (model_.device == DeviceMemory::own)
    add_device(shape, chunks.kinds(), slots, owned, parts, table);
  return table;
}

}  // namespace elaswave::spec
