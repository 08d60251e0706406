// The faults of chaos.* at this rank. The world wants its hooks before anybody knows which rank it
// is, so they do nothing until arm(). THREADS: hooks any; the object its owner's.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>

#include "app/options.h"
#include "app/trainer.h"
#include "elastic/chaos/injector.h"

namespace elaswave::app {

class ArmedFaults {
 public:
  /// REQUIRES: the keys were checked (cross checks of app/options.h).
  explicit ArmedFaults(const Config& config);

  // Each is empty unless a fault needs it.
  ProbeHook probe() const;
  RankFaults of_rank() const;                       // of the trainer
  std::function<bool()> spoils_message() const;     // of comm::MpiOptions
  std::function<bool(int peer)> reachable() const;  // likewise, and of MembershipOptions

  /// From now on things happen. `resumed` as in Injector. ERRORS: Code::usage for a rank that there
  /// is not.
  Result<void> arm(const chaos::Self& self, Step resumed);

 private:
  struct Slot {
    std::optional<chaos::Injector> injector;
    ProbeHook hook;
    std::atomic<bool> armed = false;
    bool is_armed() const { return armed.load(std::memory_order_acquire); }
  };
  bool any_of(chaos::Kind kind) const;
  std::function<bool()> spoils(chaos::Target target) const;

  chaos::Faults faults_;
  std::shared_ptr<Slot> slot_;  // null: no faults are wanted
};

}  // namespace elaswave::app
