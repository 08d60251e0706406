#include "elastic/member/membership.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "elastic/member/agent_shell.h"
#include "elastic/member/claim_file.h"
#include "elastic/member/cut_links.h"
#include "elastic/member/host_address.h"
#include "elastic/member/tcp_links.h"
#include "elastic/member/two_timers.h"
#include "elastic/member/watchdog.h"
#include "io/base/file_system.h"
#include "io/base/hash.h"
#include "io/base/log.h"
#include "parallel/comm/group.h"

namespace elaswave::member {
namespace {

constexpr Nanoseconds kLeaveAfterFence = 5 * kSecond;
// How often a watchdog looks: so that a limit is kept to a few per cent, and no more often than
// needed.
constexpr Nanoseconds kLooksInLimit = 32;
constexpr Nanoseconds kLookLeast = 10 * kMillisecond, kLookMost = kSecond;

Nanoseconds look_interval(Nanoseconds hang) {
  return std::clamp(hang / kLooksInLimit, kLookLeast, kLookMost);
}

/// What each rank tells the others at the start. No padding.
struct Offer {
  std::uint64_t run = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t ipv4 = 0;
  std::uint16_t port = 0;     // 0: this rank cannot listen
  std::uint8_t loopback = 0;  // reachable from its own host at 127.0.0.1
  std::uint8_t wants_claims = 0;
};
static_assert(sizeof(Offer) == 24);

template <typename T>
Result<std::vector<T>> gather(comm::World& world, const T& mine, Deadline deadline) {
  std::vector<T> all(static_cast<std::size_t>(world.size()));
  EW_TRY(comm::all_gather(world, comm::everyone(world), std::as_bytes(std::span(&mine, 1)),
                          std::as_writable_bytes(std::span(all)), "start of the agents", deadline));
  return all;
}

/// This process and no other of this host or another: a number is never used twice by one host
/// while it is up, and at no later boot by chance.
std::uint64_t make_incarnation(std::uint64_t host, const comm::World& world) {
  const RealClock clock;
  std::uint64_t hash = combine64(host, static_cast<std::uint64_t>(::getpid()));
  hash = combine64(hash, static_cast<std::uint64_t>(clock.now()));
  return combine64(hash, static_cast<std::uint64_t>(world.world_rank()));
}

AgentShell::Parts with_links(AgentShell::Parts parts, comm::ControlLinks& links) {
  return {.agent = parts.agent,
          .world = parts.world,
          .links = links,
          .board = parts.board,
          .claims = parts.claims};
}

/// Between the links and the shell: sees when the agent has fenced this process, closes its door
/// and sees to it that it leaves; looks whether it still works.
class Host final : public comm::ControlHandler {
 public:
  Host(const AgentShell::Parts& parts, TcpLinks& links, const MembershipOptions& options)
      : timers_(parts.links),
        shell_(with_links(parts, timers_)),
        links_(links),
        leave_now_(options.leave_now),
        recorder_(parts.world.recorder()),
        world_rank_(parts.world.world_rank()),
        look_every_(options.hang > 0 ? look_interval(options.hang) : 0),
        watchdog_(options.hang, look_every_) {}
  AgentShell& shell() { return shell_; }
  void judge(Judged judged) { judged_ = judged; }

  void start(Nanoseconds now) override {
    if (look_every_ > 0) timers_.look_at(now + look_every_);
    tell(now, [&] { shell_.start(now); });
  }
  void opened(int peer, Nanoseconds now) override {
    tell(now, [&] { shell_.opened(peer, now); });
  }
  void message(int peer, std::span<const std::byte> bytes, Nanoseconds now) override {
    tell(now, [&] { shell_.message(peer, bytes, now); });
  }
  void closed(int peer, Nanoseconds now) override {
    tell(now, [&] { shell_.closed(peer, now); });
  }
  void refused(int peer, Nanoseconds now) override {
    tell(now, [&] { shell_.refused(peer, now); });
  }
  void unreachable(int peer, Nanoseconds now) override {
    tell(now, [&] { shell_.unreachable(peer, now); });
  }
  void timer(Nanoseconds now) override {
    if (timers_.take_look(now)) {
      look(now);
      timers_.look_at(now + look_every_);
    }
    if (!timers_.take_wake(now)) return;
    if (!fenced_) return tell(now, [&] { shell_.timer(now); });
    log_error("this process was fenced and has not left in time");
    if (leave_now_ != nullptr) leave_now_(exit_code(Code::excluded));
  }
  void accuse(int peer, Nanoseconds now) {
    tell(now, [&] { shell_.accuse(peer, now); });
  }
  void leave(Nanoseconds now) {
    judged_ = Judged::no;
    tell(now, [&] { shell_.leave(now); });
  }

 private:
  void look(Nanoseconds now) {
    if (fenced_ || judged_ == Judged::no) return watchdog_.pause();
    const std::optional<WaitVerdict> verdict = watchdog_.look(look_at(recorder_, world_rank_), now);
    if (!verdict) return;
    const std::string text = text_of(*verdict, recorder_, now);
    if (verdict->kind == WaitVerdict::Kind::in_vain) {
      log_warn("{}", text);
      return accuse(verdict->peer, now);
    }
    log_error("{}", text);
    judged_ = Judged::no;  // said once
    if (leave_now_ != nullptr) leave_now_(exit_code(Code::bug));
  }

  template <typename Call>
  void tell(Nanoseconds now, Call call) {
    if (fenced_) return;
    call();
    if (!shell_.agent().fenced()) return;
    fenced_ = true;
    // For good: this process is never a member again, so peers may take it for ended, and learn it
    // from the refused dial.
    links_.shut();
    timers_.wake_at(now + kLeaveAfterFence);
  }

  TwoTimers timers_;
  AgentShell shell_;
  TcpLinks& links_;
  void (*leave_now_)(int) noexcept;
  const FlightRecorder& recorder_;
  std::int32_t world_rank_;
  Nanoseconds look_every_;  // 0: never
  Watchdog watchdog_;
  std::atomic<Judged> judged_ = Judged::no;
  bool fenced_ = false;
};

View first_view(const comm::World& world) {
  View view;
  view.members.resize(static_cast<std::size_t>(world.size()));
  std::iota(view.members.begin(), view.members.end(), 0);
  return view;
}

}  // namespace

/// Everything the agent's thread touches.
struct Membership::Parts {
  std::unique_ptr<ViewBoard> board;
  std::unique_ptr<FileClaims> claims;  // null: the lowest rank decides ties
  std::unique_ptr<TcpLinks> links;
  std::unique_ptr<CutLinks> cut;  // between the two below and above; null: no cut is wanted
  std::unique_ptr<Host> host;
  bool abandoned = false;  // the thread is stuck; nothing here may go
};

namespace {

/// A start under way: what the steps of Membership::start hand on.
struct Start {
  comm::World& world;
  const MembershipOptions& options;
  Deadline deadline;
  std::vector<std::uint64_t> hosts;
  std::vector<Offer> offers;
  std::unique_ptr<TcpLinks> links;

  int me() const { return world.world_rank(); }
  const Offer& mine() const { return offers[static_cast<std::size_t>(me())]; }
  /// Of this start: the id alone may be given again.
  std::uint64_t run() const { return combine64(options.run, offers.front().incarnation); }
};

Result<ListenPlace> listen(Start& start) {
  const bool one_host =
      std::all_of(start.hosts.begin(), start.hosts.end(),
                  [&](std::uint64_t host) { return host == start.hosts.front(); });
  std::string wanted = start.options.interface;
  if (const char* named = std::getenv("ELASWAVE_AGENT_INTERFACE"); wanted.empty() && named)
    wanted = named;
  EW_ASSIGN(const ListenPlace place, find_listen_place(wanted, one_host));
  EW_ASSIGN(start.links, TcpLinks::listen(place.listen_ipv4));
  return place;
}

/// COLLECTIVE.
Result<void> exchange_offers(Start& start) {
  EW_ASSIGN(start.hosts, gather(start.world, host_key(), start.deadline));
  const std::uint64_t host = start.hosts[static_cast<std::size_t>(start.me())];
  Offer offer{.run = start.options.run,
              .incarnation = make_incarnation(host, start.world),
              .wants_claims = !start.options.claim_directory.empty()};
  const auto place = listen(start);
  if (place) {
    offer.ipv4 = place->shown_ipv4;
    offer.port = start.links->port();
    offer.loopback = place->loopback;
  }
  EW_ASSIGN(start.offers, gather(start.world, offer, start.deadline));
  if (!place) return fail(place.error());
  for (std::size_t rank = 0; rank < start.offers.size(); ++rank) {
    const Offer& one = start.offers[rank];
    if (one.port == 0)
      return fail(Error{.code = Code::unrecoverable,
                        .what = "a rank cannot open its agent",
                        .where = fmt::format("rank {}", rank),
                        .why = "its own error says why",
                        .fix = "see the output of that rank"});
    if (one.run != start.offers.front().run)
      return fail(Error{
          .code = Code::usage,
          .what = "ranks of different runs were started together",
          .where = fmt::format("rank {}", rank),
          .why = fmt::format("run {:016x}, rank 0 has {:016x}", one.run, start.offers.front().run),
          .fix = "start all ranks with the same run directory and configuration"});
  }
  return {};
}

std::unique_ptr<FileClaims> make_claims(const Start& start) {
  const auto files = make_file_system();
  if (const auto made = make_directories(*files, start.options.claim_directory); !made)
    log_warn("no claims: {}", made.error().text());  // claiming fails too, so all ranks agree
  return std::make_unique<FileClaims>(
      FileClaims::Options{.directory = start.options.claim_directory,
                          .run = start.run(),
                          .world_rank = start.me(),
                          .incarnation = start.mine().incarnation});
}

/// COLLECTIVE. Claims decide only when every rank sees rank 0's: a directory that each host has its
/// own of would let both halves win. All ranks agree on the answer. Null: no claims.
Result<std::unique_ptr<FileClaims>> agree_on_claims(Start& start) {
  bool wanted = true;
  for (const Offer& one : start.offers) wanted = wanted && one.wants_claims != 0;
  if (!wanted) return nullptr;
  auto claims = make_claims(start);
  // Generation 0 needs no deciding, so its claim is free for the trial. Rank 0 goes first.
  const auto value = [&](const Offer& of) {
    const auto bytes = std::as_bytes(std::span(&of.incarnation, 1));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  std::optional<std::vector<std::byte>> held;
  if (start.me() == 0) held = claims->claim(Generation{}, value(start.mine()));
  EW_ASSIGN(const auto gone_first,
            gather(start.world, std::uint64_t{held.has_value()}, start.deadline));
  if (gone_first.front() != 0 && start.me() != 0)
    held = claims->claim(Generation{}, value(start.mine()));
  const std::uint64_t sees = held && *held == value(start.offers.front());
  EW_ASSIGN(const auto all_see, gather(start.world, sees, start.deadline));
  if (std::count(all_see.begin(), all_see.end(), std::uint64_t{1}) ==
      static_cast<std::ptrdiff_t>(all_see.size()))
    return claims;
  if (start.me() == 0)
    log_warn("not every rank sees the claims in {}: of two halves, the one with rank 0 goes on",
             start.options.claim_directory);
  return nullptr;
}

std::vector<TcpPeer> peers_of(const Start& start) {
  std::vector<TcpPeer> peers;
  for (std::size_t rank = 0; rank < start.offers.size(); ++rank) {
    const Offer& one = start.offers[rank];
    const bool near =
        one.loopback != 0 && start.hosts[rank] == start.hosts[static_cast<std::size_t>(start.me())];
    peers.push_back(
        {.address = {near ? kLoopbackIpv4 : one.ipv4, one.port}, .incarnation = one.incarnation});
  }
  return peers;
}

AgentOptions agent_options(const Start& start, bool claims) {
  return {.world_rank = start.me(),
          .world_size = start.world.size(),
          .run = start.run(),
          .incarnation = start.mine().incarnation,
          .heartbeat = start.options.heartbeat,
          .silence = start.options.silence,
          .patience = start.options.patience,
          .claims = claims};
}

}  // namespace

Result<std::unique_ptr<Membership>> Membership::start(comm::World& world,
                                                      const MembershipOptions& options) {
  Start start{.world = world,
              .options = options,
              .deadline = Deadline::after(world.clock(), options.start_patience)};
  EW_TRY(exchange_offers(start));
  auto parts = std::make_unique<Parts>();
  EW_ASSIGN(parts->claims, agree_on_claims(start));
  parts->board = std::make_unique<ViewBoard>(first_view(world));
  parts->links = std::move(start.links);
  comm::ControlLinks* links = parts->links.get();
  if (options.reachable) {
    parts->cut = std::make_unique<CutLinks>(
        CutLinks::Parts{.below = *links, .reachable = options.reachable});
    links = parts->cut.get();
  }
  const AgentShell::Parts shell{.agent = agent_options(start, parts->claims != nullptr),
                                .world = world,
                                .links = *links,
                                .board = *parts->board,
                                .claims = parts->claims.get()};
  parts->host = std::make_unique<Host>(shell, *parts->links, options);
  const TcpOptions tcp{
      .world_rank = start.me(), .run = start.run(), .incarnation = start.mine().incarnation};
  comm::ControlHandler* handler = parts->host.get();
  if (parts->cut) {
    parts->cut->set_handler(*handler);
    handler = parts->cut.get();
  }
  EW_TRY(parts->links->start(tcp, peers_of(start), *handler));
  return std::unique_ptr<Membership>(new Membership(std::move(parts)));
}

Membership::Membership(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Membership::~Membership() {
  end();
  if (parts_->abandoned) (void)parts_.release();
}

ViewBoard& Membership::board() {
  return *parts_->board;
}

bool Membership::claims() const {
  return parts_->claims != nullptr;
}

void Membership::accuse(int peer) {
  parts_->links->post(
      [host = parts_->host.get(), peer](Nanoseconds now) { host->accuse(peer, now); });
}

void Membership::judge(Judged judged) {
  parts_->host->judge(judged);
}

void Membership::leave() {
  if (left_) return;
  parts_->links->post([host = parts_->host.get()](Nanoseconds now) { host->leave(now); });
  end();
}

void Membership::end() {
  if (std::exchange(left_, true)) return;
  judge(Judged::no);
  if (parts_->links->stop(kSecond)) return;
  // Stuck in the claim store: the file system does not answer. What the thread touches stays, and
  // the world, which may go now, is none of it any more.
  parts_->host->shell().forget_world();
  parts_->abandoned = true;
  log_warn("the agent's thread is stuck in the run directory; leaving it behind");
}

}  // namespace elaswave::member
