#include "io/checkpoint/diff.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "io/checkpoint/reader.h"

namespace elaswave::checkpoint {
namespace {

struct Range {
  std::int64_t begin = 0, elems = 0;
  bool operator<(const Range& other) const {
    return std::pair(begin, elems) < std::pair(other.begin, other.elems);
  }
};
using Ranges = std::vector<Range>;
/// What was summed up -> its checksum.
using Units = std::map<Ranges, std::uint32_t>;

std::vector<ValueDifference> compare_facts(const Facts& a, const Facts& b) {
  const auto value_in = [](const Facts& facts, const std::string& key) {
    const auto found = std::find_if(facts.begin(), facts.end(),
                                    [&](const auto& entry) { return entry.first == key; });
    return found == facts.end() ? std::nullopt : std::optional(found->second);
  };
  std::vector<ValueDifference> differences;
  for (const auto& [key, value] : a) {
    std::optional<std::string> other = value_in(b, key);
    if (other != value) differences.push_back({key, value, std::move(other)});
  }
  for (const auto& [key, value] : b)
    if (!value_in(a, key)) differences.push_back({key, std::nullopt, value});
  return differences;
}

Facts header_facts(const Manifest& manifest) {
  return {{"run", manifest.run},
          {"writer", manifest.writer},
          {"created", manifest.created},
          {"generation", fmt::format("{}", raw(manifest.generation))},
          {"loss", fmt::format("{}", manifest.loss)}};
}

Facts counter_facts(const Manifest& manifest) {
  Facts facts = {{"step", fmt::format("{}", raw(manifest.step))},
                 {"updates", fmt::format("{}", manifest.updates)},
                 {"samples", fmt::format("{}", manifest.samples)},
                 {"tokens", fmt::format("{}", manifest.tokens)}};
  return facts;
}

Facts shape_facts(const Manifest& manifest) {
  Facts facts;
  for (const Tensor& tensor : manifest.tensors)
    facts.emplace_back(tensor.name, fmt::format("[{}]", fmt::join(tensor.shape, ", ")));
  return facts;
}

std::int32_t tensor_index(const Manifest& manifest, const std::string& name) {
  const auto found = std::find_if(manifest.tensors.begin(), manifest.tensors.end(),
                                  [&](const Tensor& tensor) { return tensor.name == name; });
  EW_CHECK(found != manifest.tensors.end(), "no tensor {}", name);
  return static_cast<std::int32_t>(found - manifest.tensors.begin());
}

void append(Ranges& ranges, Range range) {
  if (!ranges.empty() && ranges.back().begin + ranges.back().elems == range.begin) {
    ranges.back().elems += range.elems;
  } else {
    ranges.push_back(range);
  }
}

/// Cuts the runs of a piece where its checksums begin.
void add_units(const Piece& piece, Units& units) {
  Ranges current;
  std::int64_t filled = 0;
  std::size_t unit = 0;
  const auto finish = [&] {
    units.emplace(std::exchange(current, {}), piece.unit_crcs[unit++]);
    filled = 0;
  };
  for (const ElementRun& run : piece.runs)
    for (std::int64_t i = 0; i < run.count; ++i) {
      Range left{run.begin + i * run.stride, run.elems};
      while (left.elems > 0) {
        const std::int64_t taken = std::min(left.elems, kUnitElems - filled);
        append(current, {left.begin, taken});
        filled += taken;
        left = {left.begin + taken, left.elems - taken};
        if (filled == kUnitElems) finish();
      }
    }
  if (filled > 0) finish();
}

Units units_of(const Manifest& manifest, std::int32_t tensor, Kind kind) {
  Units units;
  for (const FileEntry& file : manifest.files)
    for (const Piece& piece : file.pieces)
      if (piece.tensor == tensor && piece.kind == kind) add_units(piece, units);
  return units;
}

/// What no pair of equal checksums covers, ascending and in parts of at most
/// `most_elems`.
Ranges unsettled(const Units& a, const Units& b, std::int64_t most_elems) {
  Ranges open;
  for (const auto& [ranges, crc] : a) {
    const auto other = b.find(ranges);
    if (other == b.end() || other->second != crc)
      open.insert(open.end(), ranges.begin(), ranges.end());
  }
  std::sort(open.begin(), open.end());
  Ranges merged;
  for (const Range& range : open) append(merged, range);
  Ranges parts;
  for (Range range : merged)
    for (; range.elems > 0; range = {range.begin + most_elems, range.elems - most_elems})
      parts.push_back({range.begin, std::min(range.elems, most_elems)});
  return parts;
}

Result<std::vector<float>> read_ranges(const Source& source, std::int32_t tensor, Kind kind,
                                       std::span<const Range> ranges) {
  std::int64_t elems = 0;
  for (const Range& range : ranges) elems += range.elems;
  std::vector<float> values(static_cast<std::size_t>(elems));
  std::span<float> rest = values;
  std::vector<Want> wants;
  for (const Range& range : ranges) {
    const auto count = static_cast<std::size_t>(range.elems);
    wants.push_back({tensor, kind, range.begin, rest.first(count)});
    rest = rest.subspan(count);
  }
  EW_TRY(read_wants(source.files, source.directory, source.manifest, std::move(wants)));
  return values;
}

void compare_values(std::span<const float> a, std::span<const float> b,
                    ContentDifference& difference) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(a[i]) == std::bit_cast<std::uint32_t>(b[i])) continue;
    ++difference.elems;
    const double distance = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    difference.largest =
        std::max(difference.largest,
                 std::isfinite(distance) ? distance : std::numeric_limits<double>::infinity());
  }
}

}  // namespace

ManifestDifference compare(const Manifest& a, const Manifest& b) {
  ManifestDifference difference{.header = compare_facts(header_facts(a), header_facts(b)),
                                .counters = compare_facts(counter_facts(a), counter_facts(b)),
                                .config = compare_facts(a.config, b.config),
                                .facts = compare_facts(a.facts, b.facts),
                                .shapes = compare_facts(shape_facts(a), shape_facts(b))};
  // A digest that one of them never computed is no difference.
  if (a.digest && b.digest && *a.digest != *b.digest)
    difference.counters.push_back(
        {"state digest", fmt::format("{:016x}", *a.digest), fmt::format("{:016x}", *b.digest)});
  return difference;
}

Result<ContentDifference> compare_tensor(const Source& a, const Source& b, const std::string& name,
                                         Kind kind, std::int64_t batch_elems) {
  const std::int32_t in_a = tensor_index(a.manifest, name);
  const std::int32_t in_b = tensor_index(b.manifest, name);
  EW_CHECK(a.manifest.tensors[static_cast<std::size_t>(in_a)] ==
               b.manifest.tensors[static_cast<std::size_t>(in_b)],
           "{} has two shapes", name);
  const Ranges open =
      unsettled(units_of(a.manifest, in_a, kind), units_of(b.manifest, in_b, kind), batch_elems);
  ContentDifference difference;
  for (std::size_t first = 0; first < open.size();) {
    std::size_t end = first;
    std::int64_t elems = 0;
    for (; end < open.size() && (end == first || elems + open[end].elems <= batch_elems); ++end)
      elems += open[end].elems;
    const auto batch = std::span(open).subspan(first, end - first);
    EW_ASSIGN(const std::vector<float> values_a, read_ranges(a, in_a, kind, batch));
    EW_ASSIGN(const std::vector<float> values_b, read_ranges(b, in_b, kind, batch));
    compare_values(values_a, values_b, difference);
    difference.read_elems += elems;
    first = end;
  }
  return difference;
}

}  // namespace elaswave::checkpoint
