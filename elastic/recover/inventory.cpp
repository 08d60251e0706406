#include "elastic/recover/inventory.h"

#include <algorithm>
#include <utility>

namespace elaswave::recover {
namespace {

// Of a rank list, a record, a block table: what no run reaches. A length beyond it is garbage.
constexpr std::int64_t kMostElems = std::int64_t{1} << 32;

class Writer {
 public:
  void word(std::int64_t value) { words_.push_back(value); }
  void version(const Version& version) {
    word(raw(version.step));
    word(raw(version.generation));
  }
  template <typename T>
  void list(const std::vector<T>& values) {
    word(std::ssize(values));
    words_.insert(words_.end(), values.begin(), values.end());
  }
  void bits(const std::vector<bool>& values) {
    word(std::ssize(values));
    for (std::size_t begin = 0; begin < values.size(); begin += 64) {
      std::uint64_t packed = 0;
      for (std::size_t i = begin; i < std::min(values.size(), begin + 64); ++i)
        packed |= std::uint64_t{values[i]} << (i - begin);
      word(static_cast<std::int64_t>(packed));
    }
  }
  std::vector<std::int64_t> take() { return std::move(words_); }

 private:
  std::vector<std::int64_t> words_;
};

/// Reads what Writer wrote; past the end everything is 0 and ok() false.
class Reader {
 public:
  explicit Reader(std::span<const std::int64_t> words) : words_(words) {}

  std::int64_t word() {
    if (words_.empty()) {
      ok_ = false;
      return 0;
    }
    const std::int64_t value = words_.front();
    words_ = words_.subspan(1);
    return value;
  }
  Version version() {
    const std::int64_t step = word();
    return {Step{step}, Generation{static_cast<std::uint32_t>(word())}};
  }
  std::int64_t length(std::int64_t elems_per_word) {
    const std::int64_t elems = word();
    if (elems >= 0 && elems <= kMostElems && ceil_div(elems, elems_per_word) <= std::ssize(words_))
      return elems;
    ok_ = false;
    return 0;
  }
  template <typename T>
  std::vector<T> list() {
    std::vector<T> values(static_cast<std::size_t>(length(1)));
    for (T& value : values) value = static_cast<T>(word());
    return values;
  }
  std::vector<bool> bits() {
    std::vector<bool> values(static_cast<std::size_t>(length(64)));
    std::uint64_t packed = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i % 64 == 0) packed = static_cast<std::uint64_t>(word());
      values[i] = (packed >> (i % 64) & 1) != 0;
    }
    return values;
  }
  bool ok() const { return ok_; }
  bool at_end() const { return words_.empty(); }

 private:
  std::span<const std::int64_t> words_;
  bool ok_ = true;
};

void write_layout(Writer& out, const layout::Plan& plan) {
  out.word(raw(plan.generation));
  out.word(plan.id);
  out.word(plan.tensor_degree);
  out.word(plan.micro_batches);
  out.list(plan.chunk_of_layer);
  out.list(plan.stage_of_chunk);
  out.list(plan.spares);
  out.word(std::ssize(plan.stages));
  for (const layout::Stage& stage : plan.stages) {
    out.word(std::ssize(stage.replicas));
    for (const layout::Replica& replica : stage.replicas) out.list(replica.world_ranks);
  }
}

layout::Plan read_layout(Reader& in) {
  layout::Plan plan;
  plan.generation = Generation{static_cast<std::uint32_t>(in.word())};
  plan.id = static_cast<std::uint32_t>(in.word());
  plan.tensor_degree = static_cast<std::int32_t>(in.word());
  plan.micro_batches = in.word();
  plan.chunk_of_layer = in.list<std::int32_t>();
  plan.stage_of_chunk = in.list<std::int32_t>();
  plan.spares = in.list<std::int32_t>();
  plan.stages.resize(static_cast<std::size_t>(in.length(1)));
  for (layout::Stage& stage : plan.stages) {
    stage.replicas.resize(static_cast<std::size_t>(in.length(1)));
    for (layout::Replica& replica : stage.replicas) replica.world_ranks = in.list<std::int32_t>();
  }
  return plan;
}

}  // namespace

layout::Plan layout_of(const layout::Plan& plan) {
  layout::Plan part;
  part.generation = plan.generation;
  part.id = plan.id;
  part.tensor_degree = plan.tensor_degree;
  part.micro_batches = plan.micro_batches;
  part.chunk_of_layer = plan.chunk_of_layer;
  part.stage_of_chunk = plan.stage_of_chunk;
  part.stages = plan.stages;
  part.spares = plan.spares;
  return part;
}

std::vector<std::int64_t> to_words(const RankInventory& inventory) {
  Writer out;
  out.word(inventory.world_rank);
  out.version(inventory.version);
  out.version(inventory.record_version);
  out.list(inventory.record);
  out.word(raw(inventory.reported));
  out.word(raw(inventory.durable));
  out.word(inventory.given_up ? 1 : 0);
  out.word(inventory.trusted ? raw(*inventory.trusted) : -1);
  out.word(inventory.done ? 1 : 0);
  write_layout(out, inventory.layout);
  out.bits(inventory.whole);
  out.word(inventory.whole_elems);
  return out.take();
}

Result<RankInventory> from_words(std::span<const std::int64_t> words) {
  Reader in(words);
  RankInventory inventory;
  inventory.world_rank = static_cast<std::int32_t>(in.word());
  inventory.version = in.version();
  inventory.record_version = in.version();
  inventory.record = in.list<std::int64_t>();
  inventory.reported = Step{in.word()};
  inventory.durable = Step{in.word()};
  inventory.given_up = in.word() != 0;
  if (const std::int64_t trusted = in.word(); trusted >= 0) inventory.trusted = Step{trusted};
  inventory.done = in.word() != 0;
  inventory.layout = read_layout(in);
  inventory.whole = in.bits();
  inventory.whole_elems = in.word();
  if (in.ok() && in.at_end()) return inventory;
  return fail({.code = Code::unrecoverable,
               .what = "a rank tells of its state in words that make no sense",
               .where = "recovery, inventories",
               .why = fmt::format("{} words", words.size()),
               .fix = "this is a bug: report it"});
}

}  // namespace elaswave::recover
