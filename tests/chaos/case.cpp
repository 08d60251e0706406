#include "tests/chaos/case.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace elaswave::test {
namespace {

/// Fields that are not what they are by default.
class Fields {
 public:
  template <typename T>
  void add(std::string_view name, const T& value, const T& usual) {
    if (value != usual) put(name, fmt::format("{}", value));
  }
  void put(std::string_view name, const std::string& value) {
    text_ += fmt::format("{}.{} = {}", text_.empty() ? "" : ", ", name, value);
  }
  std::string text() const { return "{" + text_ + "}"; }

 private:
  std::string text_;
};

std::string initialisers(const Fault& fault) {
  Fields fields;
  const Fault usual;
  if (fault.kind != usual.kind)
    fields.put("kind", fmt::format("Fault::Kind::{}", name(fault.kind)));
  fields.add("rank", fault.rank, usual.rank);
  fields.put("point", fmt::format("Point::{}", name(fault.point)));
  fields.add("hit", fault.hit, usual.hit);
  fields.add("delay", fault.delay, usual.delay);
  fields.add("lasts", fault.lasts, usual.lasts);
  if (!fault.also.empty()) fields.put("also", fmt::format("{{{}}}", fmt::join(fault.also, ", ")));
  return fields.text();
}

}  // namespace

std::string text(const Case& what) {
  Fields fields;
  const Case usual;
  fields.add("ranks", what.ranks, usual.ranks);
  fields.add("stages", what.stages, usual.stages);
  fields.add("tensor", what.tensor, usual.tensor);
  fields.add("chunks", what.chunks, usual.chunks);
  fields.add("copies", what.copies, usual.copies);
  fields.add("per_domain", what.per_domain, usual.per_domain);
  fields.add("steps", what.steps, usual.steps);
  fields.add("digest_every", what.digest_every, usual.digest_every);
  fields.add("validate", what.validate, usual.validate);
  fields.add("checkpoints", what.checkpoints, usual.checkpoints);
  fields.add("skip", what.skip, usual.skip);
  fields.add("fill_elems", what.fill_elems, usual.fill_elems);
  fields.add("claims", what.claims, usual.claims);
  fields.add("latency_max", what.latency_max, usual.latency_max);
  fields.add("seed", what.seed, usual.seed);
  std::vector<std::string> faults;
  for (const Fault& fault : what.faults) faults.push_back(initialisers(fault));
  fields.put("faults", fmt::format("{{{}}}", fmt::join(faults, ", ")));
  return fields.text();
}

}  // namespace elaswave::test
