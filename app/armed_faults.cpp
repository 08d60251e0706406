#include "app/armed_faults.h"

#include <algorithm>

#include "app/fault_options.h"
#include "io/base/log.h"

namespace elaswave::app {

ArmedFaults::ArmedFaults(const Config& config) {
  auto faults = requested_faults(config);
  if (!faults || faults->empty()) return;
  faults_ = *std::move(faults);
  slot_ = std::make_shared<Slot>();
}

bool ArmedFaults::any_of(chaos::Kind kind) const {
  return std::ranges::any_of(faults_.list,
                             [&](const chaos::Fault& fault) { return fault.kind == kind; });
}

ProbeHook ArmedFaults::probe() const {
  if (!slot_) return {};
  return [slot = slot_](Point point) {
    if (slot->is_armed()) slot->hook(point);
  };
}

std::function<bool()> ArmedFaults::spoils(chaos::Target target) const {
  const bool wanted = std::ranges::any_of(faults_.list, [&](const chaos::Fault& fault) {
    return fault.kind == chaos::Kind::corrupt && fault.target == target;
  });
  if (!wanted) return {};
  return [slot = slot_, target] { return slot->is_armed() && slot->injector->corrupts(target); };
}

RankFaults ArmedFaults::of_rank() const {
  RankFaults faults;
  if (!slot_) return faults;
  if (any_of(chaos::Kind::slow))
    faults.slow_factor = [slot = slot_] {
      return slot->is_armed() ? slot->injector->slow_factor() : 1;
    };
  faults.spoils_copy = spoils(chaos::Target::copy);
  faults.went_back = [slot = slot_](Step step) {
    if (slot->is_armed()) slot->injector->at_step(step);
  };
  return faults;
}

std::function<bool()> ArmedFaults::spoils_message() const {
  return spoils(chaos::Target::message);
}

std::function<bool(int)> ArmedFaults::reachable() const {
  if (!any_of(chaos::Kind::cut)) return {};
  return [slot = slot_](int peer) { return !slot->is_armed() || !slot->injector->cut(peer); };
}

Result<void> ArmedFaults::arm(const chaos::Self& self, Step resumed) {
  if (!slot_) return {};
  EW_TRY(chaos::check_ranks(faults_, self.world_size));
  chaos::Effects effects = chaos::process_effects();
  effects.say = [](const std::string& what) { log_warn("chaos: {}", what); };
  slot_->injector.emplace(faults_, self, std::move(effects), resumed);
  slot_->hook = slot_->injector->hook();
  slot_->armed.store(true, std::memory_order_release);
  return {};
}

}  // namespace elaswave::app
