// Between the agent and the world: carries out its effects over control links, asks the claim
// store, posts views on the board and wakes the data plane. The same for TCP and for the simulated
// world.
#pragma once

#include <mutex>
#include <optional>
#include <vector>

#include "elastic/member/agent.h"
#include "elastic/member/view_board.h"
#include "parallel/comm/control_link.h"
#include "parallel/comm/world.h"

namespace elaswave::member {

/// One claim for each generation, first come: what decides between two halves. THREADS: the
/// shell's.
class ClaimStore {
 public:
  virtual ~ClaimStore() = default;
  /// Returns the value that holds the claim of `generation`: `value` when there was none; nothing
  /// when the store cannot tell.
  virtual std::optional<std::vector<std::byte>> claim(Generation generation,
                                                      const std::vector<std::byte>& value) = 0;
};

class AgentShell final : public comm::ControlHandler {
 public:
  struct Parts {
    AgentOptions agent;
    comm::World& world;  // publish_view() is called on it
    comm::ControlLinks& links;
    ViewBoard& board;
    ClaimStore* claims = nullptr;  // null: AgentOptions::claims must be false
  };
  explicit AgentShell(const Parts& parts);

  void start(Nanoseconds now) override;
  void opened(int peer, Nanoseconds now) override;
  void message(int peer, std::span<const std::byte> bytes, Nanoseconds now) override;
  void closed(int peer, Nanoseconds now) override;
  void refused(int peer, Nanoseconds now) override;
  void unreachable(int peer, Nanoseconds now) override;
  void timer(Nanoseconds now) override;
  void leave(Nanoseconds now);
  void accuse(int peer, Nanoseconds now);
  /// The world is called no more once this has returned: for an owner whose thread is stuck in the
  /// claim store and who cannot wait for it. THREADS: any.
  void forget_world();

  const Agent& agent() const { return agent_; }

 private:
  using Answers = std::vector<ClaimHeld>;
  void step(const Event& event, Nanoseconds now);
  void carry_out(const Effect& effect, Nanoseconds now, Answers& answers);
  void publish(Generation generation);

  Parts parts_;
  Agent agent_;
  std::mutex world_mutex_;  // guards world_known_ and every call to the world
  bool world_known_ = true;
};

}  // namespace elaswave::member
