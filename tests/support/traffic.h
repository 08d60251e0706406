// Traffic for tests of a World: every rank derives the same list of messages from a seed, plays its
// part, and checks what arrives byte by byte. The same functions run in the simulated world and
// over MPI.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "io/base/hash.h"
#include "parallel/comm/group.h"
#include "parallel/comm/world.h"

namespace elaswave::test {

class TrafficRandom {
 public:
  explicit TrafficRandom(std::uint64_t seed) : state_(seed * kGolden64 + 1) {}
  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(mix64(state_ += kGolden64) %
                                     static_cast<std::uint64_t>(bound));
  }

 private:
  std::uint64_t state_;
};

inline std::byte content(std::uint64_t message, std::size_t offset) {
  return static_cast<std::byte>(mix64(message * 1'000'003 + offset));
}

struct TrafficOptions {
  std::uint64_t seed = 1;
  int rounds = 3;
  int messages = 20;                // of one round, over all ranks
  std::int64_t chunk_bytes = 64;    // around which sizes are chosen
  std::int64_t largest_chunks = 9;  // longest message, in chunks
  Nanoseconds patience = 60 * kSecond;
};

struct TrafficMessage {
  std::uint64_t id = 0;
  int from = 0, to = 0;
  comm::Channel channel = comm::Channel::control;
  std::vector<std::byte> bytes;
  comm::Work work;
};

inline std::int64_t draw_size(TrafficRandom& random, const TrafficOptions& options) {
  const std::int64_t c = options.chunk_bytes;
  switch (random.below(8)) {
    case 0:
      return 0;
    case 1:
      return 1;
    case 2:
      return c - 1;
    case 3:
      return c;
    case 4:
      return c + 1;
    case 5:
      return c * options.largest_chunks - random.below(3);
    default:
      return random.below(3 * c);
  }
}

/// Cuts `bytes` at random places, some of them twice (empty pieces).
template <typename Byte>
std::vector<std::span<Byte>> cut(std::span<Byte> bytes, TrafficRandom& random) {
  std::vector<std::span<Byte>> pieces;
  while (!bytes.empty() && random.below(4) != 0) {
    const auto length =
        static_cast<std::size_t>(random.below(static_cast<std::int64_t>(bytes.size()) + 1));
    pieces.push_back(bytes.first(length));
    bytes = bytes.subspan(length);
  }
  pieces.push_back(bytes);
  return pieces;
}

/// Returns the first error of a wait, if any; contents are checked with EXPECT.
inline Result<void> random_traffic(comm::World& world, const TrafficOptions& options) {
  TrafficRandom shared(options.seed);
  TrafficRandom own(options.seed * 1009 + static_cast<std::uint64_t>(world.world_rank()));
  std::uint64_t id = 0;
  for (int round = 0; round < options.rounds; ++round) {
    std::vector<TrafficMessage> mine;
    for (int i = 0; i < options.messages; ++i) {
      TrafficMessage message{.id = id++, .bytes = {}, .work = {}};
      const auto live = world.live();
      const auto live_count = static_cast<std::int64_t>(live.size());
      message.from = live[static_cast<std::size_t>(shared.below(live_count))];
      message.to = live[static_cast<std::size_t>(shared.below(live_count))];
      message.channel =
          static_cast<comm::Channel>(shared.below(static_cast<std::int64_t>(comm::Channel::watch)));
      const auto size = static_cast<std::size_t>(draw_size(shared, options));
      if (message.from != world.world_rank() && message.to != world.world_rank()) continue;
      message.bytes.resize(size);
      mine.push_back(std::move(message));
    }
    // A message to oneself is two entries.
    const std::size_t count = mine.size();
    for (std::size_t i = 0; i < count; ++i)
      if (mine[i].from == mine[i].to) mine.push_back(mine[i]);
    for (std::size_t i = 0; i < mine.size(); ++i) {
      TrafficMessage& message = mine[i];
      const bool sends = message.from == world.world_rank() && i < count;
      if (sends) {
        for (std::size_t k = 0; k < message.bytes.size(); ++k)
          message.bytes[k] = content(message.id, k);
        message.work = world.send(message.to, message.channel,
                                  cut(std::span<const std::byte>(message.bytes), own));
      } else {
        message.work =
            world.receive(message.from, message.channel, cut(std::span(message.bytes), own));
      }
    }
    std::vector<std::size_t> order(mine.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (std::size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1],
                order[static_cast<std::size_t>(own.below(static_cast<std::int64_t>(i)))]);
    for (const std::size_t i : order) {
      if (own.below(4) == 0) world.test(mine[i].work);
      EW_TRY(world.wait(mine[i].work, "traffic", Deadline::after(world.clock(), options.patience)));
    }
    for (const TrafficMessage& message : mine) {
      std::size_t wrong = 0;
      for (std::size_t k = 0; k < message.bytes.size(); ++k)
        wrong += message.bytes[k] != content(message.id, k);
      EXPECT_EQ(wrong, 0u) << "message " << message.id << ", " << message.bytes.size()
                           << " bytes, seed " << options.seed;
    }
  }
  return {};
}

inline std::int64_t addend(std::uint64_t seed, int world_rank, std::size_t i) {
  return static_cast<std::int64_t>(
      mix64(seed + static_cast<std::uint64_t>(world_rank) * 7919 + i * 104729));
}

/// Enters `generation` with the ranks `live`, all of them if there are none given.
inline void enter_view(comm::World& world, Generation generation, std::vector<int> live = {}) {
  if (live.empty()) {
    live.resize(static_cast<std::size_t>(world.size()));
    std::iota(live.begin(), live.end(), 0);
  }
  world.publish_view(generation);
  world.adopt_view(generation, live);
}

/// A random group of live ranks of the world, the same at all of them; at least one member.
inline comm::Group draw_group(const comm::World& world, TrafficRandom& shared) {
  comm::Group group{{}, world.generation()};
  const auto live = world.live();
  const int certain =
      live[static_cast<std::size_t>(shared.below(static_cast<std::int64_t>(live.size())))];
  for (const int r : live)
    if (shared.below(2) == 0 || r == certain) group.world_ranks.push_back(r);
  for (std::size_t i = group.world_ranks.size(); i > 1; --i)
    std::swap(
        group.world_ranks[i - 1],
        group.world_ranks[static_cast<std::size_t>(shared.below(static_cast<std::int64_t>(i)))]);
  return group;
}

/// Cuts `elems` elements at random places and deals the pieces, some of them to nobody: members get
/// none, several, empty ones.
inline comm::OwnedRanges draw_owners(int members, std::int64_t elems, TrafficRandom& shared) {
  comm::OwnedRanges owned(static_cast<std::size_t>(members));
  for (std::int64_t begin = 0; begin < elems;) {
    const std::int64_t end = begin + shared.below(std::min(elems - begin, elems / members + 1) + 1);
    const auto owner = static_cast<std::size_t>(shared.below(members + 1));
    if (owner < owned.size()) owned[owner].push_back({begin, end});
    begin = end;
  }
  return owned;
}

/// Sums to arbitrary owners and from them back to everybody: every element, owned or not, has known
/// bits before and after.
inline Result<void> check_owned(comm::World& world, const comm::Group& group,
                                const comm::OwnedRanges& owned, std::size_t elems,
                                std::uint64_t salt, Deadline deadline) {
  const int me = group.index_of(world.world_rank());
  std::vector<std::int64_t> values(elems), summed(elems), everywhere(elems);
  for (std::size_t i = 0; i < elems; ++i)
    values[i] = summed[i] = everywhere[i] = addend(salt, world.world_rank(), i);
  for (std::size_t owner = 0; owner < owned.size(); ++owner)
    for (const comm::ElementRange& range : owned[owner])
      for (auto i = static_cast<std::size_t>(range.begin); i < static_cast<std::size_t>(range.end);
           ++i) {
        std::uint64_t total = 0;
        for (const int r : group.world_ranks)
          total += static_cast<std::uint64_t>(addend(salt, r, i));
        everywhere[i] = static_cast<std::int64_t>(total);
        if (static_cast<int>(owner) == me) summed[i] = everywhere[i];
      }
  EW_TRY(comm::reduce_scatter_sum(world, group, owned, values, "sums to owners", deadline));
  EXPECT_EQ(values, summed) << "salt " << salt << " members " << group.size();
  EW_TRY(comm::all_gather_v(world, group, owned, sizeof(std::int64_t),
                            std::as_writable_bytes(std::span(values)), "from owners", deadline));
  EXPECT_EQ(values, everywhere) << "salt " << salt << " members " << group.size();
  return {};
}

inline Result<void> random_collectives(comm::World& world, std::uint64_t seed, int rounds,
                                       std::int64_t largest_elems,
                                       Nanoseconds patience = 60 * kSecond) {
  TrafficRandom shared(seed);
  for (int round = 0; round < rounds; ++round) {
    const comm::Group group = draw_group(world, shared);
    const auto elems = static_cast<std::size_t>(shared.below(largest_elems + 1));
    const int root = static_cast<int>(shared.below(group.size()));
    const std::uint64_t salt = seed * 31 + static_cast<std::uint64_t>(round);
    const comm::OwnedRanges owned =
        draw_owners(group.size(), static_cast<std::int64_t>(elems), shared);
    const int me = group.index_of(world.world_rank());
    if (me < 0) continue;
    const Deadline deadline = Deadline::after(world.clock(), patience);

    std::vector<std::int64_t> sum(elems), expected(elems);
    for (std::size_t i = 0; i < elems; ++i) {
      sum[i] = addend(salt, world.world_rank(), i);
      std::uint64_t total = 0;  // wraps like the real one
      for (const int r : group.world_ranks) total += static_cast<std::uint64_t>(addend(salt, r, i));
      expected[i] = static_cast<std::int64_t>(total);
    }
    EW_TRY(comm::all_reduce_sum(world, group, sum, "sum", deadline));
    EXPECT_EQ(sum, expected) << "seed " << seed << " round " << round << " members "
                             << group.size();

    std::vector<std::byte> word(elems);
    const int root_rank = group.world_ranks[static_cast<std::size_t>(root)];
    if (me == root)
      for (std::size_t i = 0; i < elems; ++i)
        word[i] = content(salt + static_cast<std::uint64_t>(root_rank), i);
    EW_TRY(comm::broadcast(world, group, root, word, "word", deadline));
    for (std::size_t i = 0; i < elems; ++i)
      EXPECT_EQ(word[i], content(salt + static_cast<std::uint64_t>(root_rank), i))
          << "seed " << seed;

    std::vector<std::byte> row(elems % 300),
        rows(row.size() * static_cast<std::size_t>(group.size()));
    for (std::size_t i = 0; i < row.size(); ++i)
      row[i] = content(salt * 3 + static_cast<std::uint64_t>(world.world_rank()), i);
    EW_TRY(comm::all_gather(world, group, row, rows, "rows", deadline));
    for (std::size_t k = 0; k < rows.size(); ++k) {
      const auto owner = static_cast<std::uint64_t>(group.world_ranks[k / row.size()]);
      EXPECT_EQ(rows[k], content(salt * 3 + owner, k % row.size())) << "seed " << seed;
    }

    EW_TRY(check_owned(world, group, owned, elems, salt, deadline));
  }
  return {};
}

}  // namespace elaswave::test
