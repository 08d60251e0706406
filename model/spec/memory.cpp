#include "model/spec/memory.h"

#include <algorithm>

namespace elaswave::spec {
namespace {

constexpr double kFloat = sizeof(float);

/// Bytes of one element of a part's working copy; vectors are always f32.
double elem_bytes(const MemoryModel& model, std::int32_t part) {
  const TensorSpec& tensor = model.inventory.tensor(model.inventory.part(part).tensor);
  return static_cast<double>(size_bytes(tensor.storage));
}

class RankMemory {
 public:
  RankMemory(const MemoryModel& model, const layout::Plan& plan, const layout::Place& place)
      : model_(model),
        plan_(plan),
        place_(place),
        shape_(model.config, model.micro_batch, plan.tensor_degree) {}

  MemoryTable table(const RankSlots& slots, std::int64_t owned) {
    add_parts();
    const auto elems = static_cast<double>(owned);
    table_[MemoryTerm::optimizer] = 3 * kFloat * elems;
    table_[MemoryTerm::log] = kFloat * elems;
    // Backups are dealt like owners, so a rank keeps as much for others as it owns.
    table_[MemoryTerm::backups] = 4 * kFloat * elems * static_cast<double>(model_.backups);
    if (model_.checkpoints == CheckpointImage::kept)
      table_[MemoryTerm::checkpoint] = 3 * kFloat * elems;
    for (const ChunkSlots& chunk : slots.chunks) add_chunk(chunk);
    table_[MemoryTerm::scratch] =
        layer_scratch(shape_, model_.recompute, kinds_).size_bytes(model_.storage);
    table_[MemoryTerm::boundaries] =
        slots.boundaries * block_input(shape_).size_bytes(model_.storage);
    add_exchange();
    return table_;
  }

 private:
  bool holds_layer(std::int32_t layer) const {
    return layer >= 0 && plan_.stage_of_layer(layer) == place_.stage;
  }
  bool is_block(std::int32_t layer) const { return layer > 0 && layer + 1 < plan_.layers(); }

  void add_parts() {
    const double sum_bytes = model_.sums == SumWidth::exact ? 8 : 4;
    for (std::int32_t index = 0; index < model_.blocks.parts(); ++index) {
      const layout::PartExtent& part = model_.blocks.part(index);
      const bool reads = holds_layer(part.layer) || holds_layer(part.tied_layer);
      if (!reads || (part.slice >= 0 && part.slice != place_.slice)) continue;
      const auto elems = static_cast<double>(part.elems);
      table_[MemoryTerm::weights] += elem_bytes(model_, index) * elems;
      table_[MemoryTerm::sums] += sum_bytes * elems;
    }
  }

  void add_chunk(const ChunkSlots& slots) {
    const layout::LayerRange range = layout::layers_of_chunk(plan_, slots.chunk);
    std::int64_t blocks = 0;
    for (std::int32_t layer = range.begin; layer < range.end; ++layer) blocks += is_block(layer);
    const DType storage = model_.storage;
    if (blocks > 0) {
      kinds_.blocks = true;
      const double one = block_stash(shape_, model_.recompute).size_bytes(storage);
      const double inner = block_input(shape_).size_bytes(storage);
      table_[MemoryTerm::stashes] += slots.stash * (static_cast<double>(blocks) * one +
                                                    static_cast<double>(blocks - 1) * inner);
      table_[MemoryTerm::weight_stashes] += slots.weight_stash * static_cast<double>(blocks) *
                                            weight_stash(shape_).size_bytes(storage);
    }
    if (range.end < plan_.layers()) return;
    kinds_.head = true;
    const bool alone = range.end - range.begin == 1;
    table_[MemoryTerm::head] +=
        slots.keep *
        head_stash(shape_, alone ? HeadInput::boundary : HeadInput::own).size_bytes(storage);
    const auto rows = static_cast<double>(std::min(shape_.tokens, model_.loss_chunk_tokens));
    table_[MemoryTerm::logits] =
        kFloat * rows * static_cast<double>(ceil_div(model_.config.vocab, shape_.slices));
  }

  /// A rank receives from each other member of a layer what it owns of it: a share of
  /// 1 / members of (members - 1) copies.
  void add_exchange() {
    const double sum_bytes = model_.sums == SumWidth::exact ? 8 : 4;
    std::vector<double> layers;  // bytes that arrive
    for (std::int32_t layer = 0; layer < plan_.layers(); ++layer) {
      if (!holds_layer(layer)) continue;
      double elems = 0;
      const std::int64_t first = model_.blocks.layer_begin(layer);
      const std::int64_t last = model_.blocks.layer_begin(layer + 1) - 1;
      for (std::int32_t part = model_.blocks.block(first).part;
           part <= model_.blocks.block(last).part; ++part) {
        const std::int32_t slice = model_.blocks.part(part).slice;
        if (slice < 0 || slice == place_.slice)
          elems += static_cast<double>(model_.blocks.part(part).elems);
      }
      const auto members = static_cast<double>(plan_.replicas(place_.stage));
      layers.push_back(sum_bytes * elems * (members - 1) / members);
    }
    const std::size_t window = std::min<std::size_t>(kExchangeWindow, layers.size());
    std::partial_sort(layers.begin(), layers.begin() + static_cast<std::ptrdiff_t>(window),
                      layers.end(), std::greater<>());
    for (std::size_t index = 0; index < window; ++index)
      table_[MemoryTerm::exchange] += layers[index];
    // Peers' partial sums of this slice's rows (comm::SliceGroup).
    table_[MemoryTerm::exchange] +=
        static_cast<double>(shape_.slices - 1) * block_input(shape_).size_bytes(model_.storage);
  }

  const MemoryModel& model_;
  const layout::Plan& plan_;
  layout::Place place_;
  StashShape shape_;
  LayerKinds kinds_;
  MemoryTable table_;
};

}  // namespace

std::string_view name(MemoryTerm term) {
  constexpr std::array<std::string_view, kMemoryTerms> names = {
      "weights",        "gradient sums", "optimizer",  "log",    "backups",  "stashes",   "head",
      "weight stashes", "scratch",       "boundaries", "logits", "exchange", "checkpoint"};
  return names[static_cast<std::size_t>(term)];
}

double MemoryTable::total() const {
  double sum = 0;
  for (const double term : bytes) sum += term;
  return sum;
}

MemoryTerm MemoryTable::largest() const {
  return static_cast<MemoryTerm>(std::max_element(bytes.begin(), bytes.end()) - bytes.begin());
}

std::vector<std::vector<std::int64_t>> owned_elems(const layout::Plan& plan,
                                                   const layout::BlockTable& blocks) {
  std::vector<std::vector<std::int64_t>> owned(plan.stages.size());
  for (std::size_t stage = 0; stage < owned.size(); ++stage)
    owned[stage].resize(plan.stages[stage].replicas.size() *
                        static_cast<std::size_t>(plan.tensor_degree));
  for (std::int64_t index = 0; index < blocks.count(); ++index) {
    const layout::Block& block = blocks.block(index);
    const auto stage = static_cast<std::size_t>(plan.stage_of_layer(block.layer));
    owned[stage][static_cast<std::size_t>(plan.owner[static_cast<std::size_t>(index)])] +=
        block.elems;
  }
  return owned;
}

MemoryTable plan_memory(const MemoryModel& model, const layout::Plan& plan,
                        const layout::Place& place, const RankSlots& slots, std::int64_t owned) {
  return RankMemory(model, plan, place).table(slots, owned);
}

}  // namespace elaswave::spec
