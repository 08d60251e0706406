// Probes: named points of the protocol where tests watch, delay, kill or stop a rank. All points
// are listed here; a campaign that never hits one has failed. In a normal run the hook is empty and
// a probe costs one branch.
#pragma once

#include <functional>
#include <string_view>

namespace elaswave {

enum class Point {
  step_begin,
  before_forward,
  after_forward,
  after_backward,
  before_reduce,
  after_reduce,
  after_log,
  before_commit,
  after_commit,
  during_apply,
  after_apply,
  before_gather,
  after_gather,
  send_chunk,
  receive_chunk,
  recover_begin,         // a new view is known, the aborted step is left
  recover_inventory,     // everybody's inventory is here
  recover_roll_forward,  // a record is about to be applied from the log
  recover_planned,
  recover_moved,
  recover_gate,  // about to show this rank's words
  recover_done,
  fill,  // copies are about to be filled
  count,
};

constexpr std::string_view name(Point point) {
  constexpr std::string_view names[] = {"step_begin",
                                        "before_forward",
                                        "after_forward",
                                        "after_backward",
                                        "before_reduce",
                                        "after_reduce",
                                        "after_log",
                                        "before_commit",
                                        "after_commit",
                                        "during_apply",
                                        "after_apply",
                                        "before_gather",
                                        "after_gather",
                                        "send_chunk",
                                        "receive_chunk",
                                        "recover_begin",
                                        "recover_inventory",
                                        "recover_roll_forward",
                                        "recover_planned",
                                        "recover_moved",
                                        "recover_gate",
                                        "recover_done",
                                        "fill"};
  static_assert(std::size(names) == static_cast<std::size_t>(Point::count));
  return names[static_cast<std::size_t>(point)];
}

using ProbeHook = std::function<void(Point)>;

inline void probe(const ProbeHook& hook, Point point) {
  if (hook) [[unlikely]]
    hook(point);
}

}  // namespace elaswave
