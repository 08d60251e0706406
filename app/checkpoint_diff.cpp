// `elaswave checkpoint diff`: two checkpoints tensor by tensor, and its lines.
#include <fmt/format.h>

#include <set>

#include "app/checkpoint_tools.h"
#include "io/checkpoint/store.h"

namespace elaswave::app {
namespace {

using checkpoint::Kind;
using checkpoint::Manifest;
using checkpoint::ValueDifference;

void add_values(std::vector<std::string>& lines, std::string_view title,
                const std::vector<ValueDifference>& differences) {
  for (const ValueDifference& difference : differences)
    lines.push_back(fmt::format("{:<9} {}: {} | {}", title, difference.key,
                                difference.a.value_or("(none)"), difference.b.value_or("(none)")));
}

}  // namespace

Result<CheckpointDifference> diff_checkpoints(FileSystem& files, const std::string& a,
                                              const std::string& b) {
  EW_ASSIGN(const std::string found_a, checkpoint::find_checkpoint(files, a));
  EW_ASSIGN(const std::string found_b, checkpoint::find_checkpoint(files, b));
  EW_ASSIGN(const Manifest manifest_a, checkpoint::read_manifest(files, found_a));
  EW_ASSIGN(const Manifest manifest_b, checkpoint::read_manifest(files, found_b));
  CheckpointDifference difference{.manifest = checkpoint::compare(manifest_a, manifest_b)};
  std::set<std::string> other_shape;
  for (const ValueDifference& shape : difference.manifest.shapes) other_shape.insert(shape.key);
  const checkpoint::Source source_a{files, found_a, manifest_a};
  const checkpoint::Source source_b{files, found_b, manifest_b};
  for (const checkpoint::Tensor& tensor : manifest_a.tensors) {
    if (other_shape.contains(tensor.name)) continue;
    for (const Kind kind : {Kind::master, Kind::exp_avg, Kind::exp_avg_sq}) {
      EW_ASSIGN(const checkpoint::ContentDifference content,
                checkpoint::compare_tensor(source_a, source_b, tensor.name, kind));
      ++difference.compared;
      difference.read_elems += content.read_elems;
      if (content.elems > 0) difference.tensors.push_back({tensor.name, kind, content});
    }
  }
  return difference;
}

std::vector<std::string> lines(const CheckpointDifference& difference) {
  std::vector<std::string> lines;
  add_values(lines, "header", difference.manifest.header);
  add_values(lines, "counter", difference.manifest.counters);
  add_values(lines, "config", difference.manifest.config);
  add_values(lines, "fact", difference.manifest.facts);
  add_values(lines, "shape", difference.manifest.shapes);
  for (const TensorDifference& one : difference.tensors)
    lines.push_back(fmt::format("{:<9} {} {}: {} elements differ, by up to {:g}", "contents",
                                name(one.kind), one.tensor, one.content.elems,
                                one.content.largest));
  lines.push_back(
      fmt::format("{}: {} of {} arrays differ, {} elements had to be read",
                  difference.same_state() ? "same training state" : "different training states",
                  difference.tensors.size(), difference.compared, difference.read_elems));
  return lines;
}

}  // namespace elaswave::app
