#include "parallel/comm/sim_links.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "io/base/hash.h"

namespace elaswave::comm {
namespace {

// How long a dial that nobody answers lasts.
constexpr Nanoseconds kDialPatience = 200 * kMillisecond;

}  // namespace

class SimLinks::Port final : public ControlLinks {
 public:
  Port(SimLinks& links, int world_rank) : links_(links), world_rank_(world_rank) {}
  void dial(int peer) override { links_.dial(world_rank_, peer); }
  void send(int peer, std::span<const std::byte> bytes) override {
    links_.send(world_rank_, peer, bytes);
  }
  void close(int peer) override { links_.close(world_rank_, peer); }
  void wake_at(Nanoseconds at) override { links_.wake_at(world_rank_, at); }

 private:
  SimLinks& links_;
  int world_rank_;
};

SimLinks::SimLinks(SimHost& host, const SimNetworkOptions& options)
    : host_(host), options_(options), agents_(static_cast<std::size_t>(options.ranks)) {}

SimLinks::~SimLinks() = default;

ControlLinks& SimLinks::of(int world_rank) {
  Agent& self = agent(world_rank);
  if (!self.port) self.port = std::make_unique<Port>(*this, world_rank);
  return *self.port;
}

void SimLinks::attach(int world_rank, std::unique_ptr<ControlHandler> handler) {
  agent(world_rank).handler = std::move(handler);
}

void SimLinks::start() {
  for (Agent& self : agents_)
    if (self.handler) self.handler->start(host_.now());
}

// ---- what handlers ask for

void SimLinks::dial(int world_rank, int peer) {
  EW_CHECK(peer >= 0 && peer < options_.ranks && peer != world_rank, "rank {} dials rank {} of {}",
           world_rank, peer, options_.ranks);
  End& end = agent(world_rank).ends[peer];
  if (end.open || end.dialling != 0 || agent(world_rank).ended) return;
  end.dialling = ++dials_;
  post({.kind = Kind::dial, .from = world_rank, .to = peer, .dial = end.dialling, .bytes = {}});
}

void SimLinks::send(int world_rank, int peer, std::span<const std::byte> bytes) {
  const auto found = agent(world_rank).ends.find(peer);
  if (found == agent(world_rank).ends.end() || !found->second.open) return;
  post({.kind = Kind::message,
        .from = world_rank,
        .to = peer,
        .number = found->second.number,
        .bytes = {bytes.begin(), bytes.end()}});
}

void SimLinks::close(int world_rank, int peer) {
  End& end = agent(world_rank).ends[peer];
  end.dialling = 0;
  end.dropped = end.number;
  if (!std::exchange(end.open, false)) return;
  post({.kind = Kind::end, .from = world_rank, .to = peer, .number = end.number, .bytes = {}});
}

void SimLinks::wake_at(int world_rank, Nanoseconds at) {
  Agent& self = agent(world_rank);
  if (self.wake_at == at || self.ended) return;
  self.wake_at = at;
  ++self.wish;
  if (at == std::numeric_limits<Nanoseconds>::max()) return;
  schedule(std::max(at, host_.now()), {.kind = Kind::timer,
                                       .from = world_rank,
                                       .to = world_rank,
                                       .number = self.wish,
                                       .bytes = {}});
}

// ---- between hosts

std::uint32_t SimLinks::take_parcel() {
  if (free_parcels_.empty()) {
    parcels_.emplace_back();
    return static_cast<std::uint32_t>(parcels_.size() - 1);
  }
  const std::uint32_t id = free_parcels_.back();
  free_parcels_.pop_back();
  return id;
}

void SimLinks::schedule(Nanoseconds at, Parcel parcel) {
  const std::uint32_t id = take_parcel();
  parcels_[id] = std::move(parcel);
  parcels_[id].used = true;
  host_.schedule_link(at, id);
}

/// To another host: after a latency, not before what was posted to it earlier.
void SimLinks::post(Parcel parcel) {
  const auto spread = static_cast<std::uint64_t>(options_.latency_max - options_.latency_min + 1);
  Nanoseconds& latest = agent(parcel.from).arrivals[parcel.to];
  const Nanoseconds latency =
      options_.latency_min + static_cast<Nanoseconds>(host_.random().below(spread));
  latest = std::max(latest, host_.now() + latency);
  parcel.lost = host_.is_cut(parcel.from, parcel.to);
  host_.trace(combine64(hash_bytes(parcel.bytes, static_cast<std::uint64_t>(parcel.kind)),
                        combine64(static_cast<std::uint64_t>(parcel.from) << 32 |
                                      static_cast<std::uint64_t>(parcel.to),
                                  static_cast<std::uint64_t>(latest))));
  schedule(latest, std::move(parcel));
}

void SimLinks::due(std::uint32_t event) {
  Parcel parcel = std::exchange(parcels_[event], {});
  free_parcels_.push_back(event);
  if (parcel.lost)
    lost(parcel);
  else
    arrive(std::move(parcel));
}

void SimLinks::arrive(Parcel parcel) {
  switch (parcel.kind) {
    case Kind::dial:
      return arrive_dial(parcel);
    case Kind::accepted:
    case Kind::refused:
    case Kind::unreachable:
      return arrive_answer(parcel);
    case Kind::message:
    case Kind::end:
      return arrive_on_link(std::move(parcel));
    case Kind::timer:
      return tell(parcel.to,
                  {.what = What::timer, .peer = 0, .number = parcel.number, .bytes = {}});
    case Kind::catch_up: {
      Agent& self = agent(parcel.to);
      while (!self.waiting.empty() && !self.stopped) {
        const Call next = std::move(self.waiting.front());
        self.waiting.pop_front();
        call(parcel.to, next);
      }
      return;
    }
  }
}

void SimLinks::arrive_dial(const Parcel& parcel) {
  Agent& self = agent(parcel.to);
  Parcel answer{.kind = Kind::accepted,
                .from = parcel.to,
                .to = parcel.from,
                .dial = parcel.dial,
                .bytes = {}};
  if (self.ended || !self.handler) {
    answer.kind = Kind::refused;
    return post(std::move(answer));
  }
  End& end = self.ends[parcel.from];
  end.open = true;
  end.number = answer.number = ++links_;
  post(std::move(answer));
  tell(parcel.to, {.what = What::opened, .peer = parcel.from, .number = end.number, .bytes = {}});
}

void SimLinks::arrive_answer(const Parcel& parcel) {
  End& end = agent(parcel.to).ends[parcel.from];
  if (agent(parcel.to).ended || end.dialling != parcel.dial) {  // nobody wants it any more
    if (parcel.kind == Kind::accepted)
      post({.kind = Kind::end,
            .from = parcel.to,
            .to = parcel.from,
            .number = parcel.number,
            .bytes = {}});
    return;
  }
  end.dialling = 0;
  if (parcel.kind == Kind::accepted) {
    if (end.number >= parcel.number) return;  // crossed: the other dial's link stays
    end.open = true;
    end.number = parcel.number;
    return tell(parcel.to,
                {.what = What::opened, .peer = parcel.from, .number = parcel.number, .bytes = {}});
  }
  if (end.open) return;  // crossed: the other dial got through
  tell(parcel.to, {.what = parcel.kind == Kind::refused ? What::refused : What::unreachable,
                   .peer = parcel.from,
                   .number = 0,
                   .bytes = {}});
}

void SimLinks::arrive_on_link(Parcel parcel) {
  End& end = agent(parcel.to).ends[parcel.from];
  const bool known = end.open && end.number == parcel.number && !agent(parcel.to).ended;
  if (parcel.kind == Kind::end) {
    if (!known) return;
    end.open = false;
    return tell(parcel.to,
                {.what = What::closed, .peer = parcel.from, .number = parcel.number, .bytes = {}});
  }
  if (!known)
    return post({.kind = Kind::end,
                 .from = parcel.to,
                 .to = parcel.from,
                 .number = parcel.number,
                 .bytes = {}});
  tell(parcel.to, {.what = What::message,
                   .peer = parcel.from,
                   .number = parcel.number,
                   .bytes = std::move(parcel.bytes)});
}

/// A dial whose question or answer is lost ends in silence; anything else just does not arrive.
void SimLinks::lost(const Parcel& parcel) {
  const bool question = parcel.kind == Kind::dial;
  if (!question && parcel.kind != Kind::accepted && parcel.kind != Kind::refused) return;
  const int dialler = question ? parcel.from : parcel.to;
  const int dialled = question ? parcel.to : parcel.from;
  schedule(host_.now() + kDialPatience, {.kind = Kind::unreachable,
                                         .from = dialled,
                                         .to = dialler,
                                         .dial = parcel.dial,
                                         .bytes = {}});
}

// ---- to the handlers

void SimLinks::tell(int world_rank, Call next) {
  Agent& self = agent(world_rank);
  if (self.ended || !self.handler) return;
  if (self.stopped || !self.waiting.empty())
    self.waiting.push_back(std::move(next));
  else
    call(world_rank, next);
}

/// A handler that has closed a link hears no more of it, and a timer it has set anew is none.
bool SimLinks::still_wanted(int world_rank, const Call& call) {
  Agent& self = agent(world_rank);
  if (call.what == What::timer) return call.number == self.wish;
  End& end = self.ends[call.peer];
  switch (call.what) {
    case What::opened:
      return call.number > end.dropped;
    case What::message:
    case What::closed:
      return call.number > end.dropped && call.number == end.told;
    default:
      return true;
  }
}

void SimLinks::call(int world_rank, const Call& call) {
  if (!still_wanted(world_rank, call)) return;
  Agent& self = agent(world_rank);
  ++calls_;
  const Nanoseconds now = host_.now();
  host_.trace(combine64(combine64(static_cast<std::uint64_t>(world_rank) << 32 |
                                      static_cast<std::uint64_t>(call.peer),
                                  static_cast<std::uint64_t>(call.what)),
                        static_cast<std::uint64_t>(now)));
  switch (call.what) {
    case What::opened:
      self.ends[call.peer].told = call.number;
      return self.handler->opened(call.peer, now);
    case What::message:
      return self.handler->message(call.peer, call.bytes, now);
    case What::closed:
      return self.handler->closed(call.peer, now);
    case What::refused:
      return self.handler->refused(call.peer, now);
    case What::unreachable:
      return self.handler->unreachable(call.peer, now);
    case What::timer:
      self.wake_at = -1;
      return self.handler->timer(now);
  }
}

// ---- faults

void SimLinks::ended(int world_rank) {
  Agent& self = agent(world_rank);
  if (std::exchange(self.ended, true)) return;
  self.waiting.clear();
  for (auto& [peer, end] : self.ends) {
    end.dialling = 0;
    if (std::exchange(end.open, false))
      post({.kind = Kind::end, .from = world_rank, .to = peer, .number = end.number, .bytes = {}});
  }
}

void SimLinks::stopped(int world_rank) {
  agent(world_rank).stopped = true;
}

void SimLinks::went_on(int world_rank) {
  agent(world_rank).stopped = false;
  if (!agent(world_rank).waiting.empty())
    schedule(host_.now(),
             {.kind = Kind::catch_up, .from = world_rank, .to = world_rank, .bytes = {}});
}

void SimLinks::cut(int one, int other) {
  for (Parcel& parcel : parcels_) {
    const bool between =
        (parcel.from == one && parcel.to == other) || (parcel.from == other && parcel.to == one);
    // The silence a dial ends in is the dialler's own.
    if (parcel.used && between && parcel.kind != Kind::unreachable) parcel.lost = true;
  }
}

}  // namespace elaswave::comm
