#include "app/fault_options.h"

#include <array>
#include <iterator>
#include <utility>

namespace elaswave::app {

Result<chaos::Faults> requested_faults(const Config& config) {
  using chaos::Kind;
  const Config::Chaos& texts = config.chaos;
  const std::array<std::pair<Kind, const std::vector<std::string>*>, 7> lists = {
      {{Kind::kill, &texts.kill},
       {Kind::stop, &texts.stop},
       {Kind::exit, &texts.exit},
       {Kind::hang, &texts.hang},
       {Kind::slow, &texts.slow},
       {Kind::cut, &texts.cut},
       {Kind::corrupt, &texts.corrupt}}};
  chaos::Faults faults;
  for (const auto& [kind, list] : lists) {
    EW_ASSIGN(std::vector<chaos::Fault> some, chaos::parse_faults(kind, *list));
    std::move(some.begin(), some.end(), std::back_inserter(faults.list));
  }
  if (!texts.random.empty()) {
    EW_ASSIGN(faults.random, chaos::parse_random(texts.random));
  }
  return faults;
}

}  // namespace elaswave::app
