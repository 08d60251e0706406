#include "parallel/comm/group.h"

#include <algorithm>

namespace elaswave::comm {
namespace {

// Above this many bytes per member an all-reduce moves slices (bandwidth) instead of whole vectors
// (fewest rounds).
constexpr std::int64_t kSliceFromBytes = 32 << 10;

/// One member's view of a collective. Works still under way when a step fails need no care: an
/// error or an abort has made the world give up every transfer (world.h), so the buffers they name
/// are free to go.
class Collective {
 public:
  Collective(World& world, const Group& group, std::string_view operation, Deadline deadline,
             Channel channel = Channel::control)
      : world_(world),
        group_(group),
        operation_(operation),
        deadline_(deadline),
        channel_(channel) {
    me_ = group.index_of(world.world_rank());
    EW_CHECK(me_ >= 0, "rank {} calls '{}' of a group it is not in", world.world_rank(), operation);
    EW_CHECK(group.generation == world.generation(),
             "'{}' in a group of generation {}, the world is at {}", operation,
             raw(group.generation), raw(world.generation()));
  }

  int me() const { return me_; }
  int size() const { return group_.size(); }

  void send(int index, ConstPieces pieces) {
    works_.push_back(world_.send(rank_of(index), channel_, std::move(pieces)));
  }
  void receive(int index, Pieces pieces) {
    works_.push_back(start_receive(index, std::move(pieces)));
  }
  /// A receive that finish() does not wait for.
  Work start_receive(int index, Pieces pieces) {
    return world_.receive(rank_of(index), channel_, std::move(pieces));
  }
  Result<void> wait(const Work& work) { return world_.wait(work, operation_, deadline_); }
  /// Waits for everything started so far.
  Result<void> finish() {
    for (const Work& work : works_) EW_TRY(wait(work));
    works_.clear();
    return {};
  }

 private:
  int rank_of(int index) const { return group_.world_ranks[static_cast<std::size_t>(index)]; }

  World& world_;
  const Group& group_;
  std::string_view operation_;
  Deadline deadline_;
  Channel channel_;
  int me_ = 0;
  std::vector<Work> works_;
};

// Two's complement addition without undefined overflow.
void add(std::span<std::int64_t> sum, std::span<const std::int64_t> addend) {
  for (std::size_t i = 0; i < sum.size(); ++i)
    sum[i] = static_cast<std::int64_t>(static_cast<std::uint64_t>(sum[i]) +
                                       static_cast<std::uint64_t>(addend[i]));
}

void check_ranges(const OwnedRanges& owned, const Group& group, std::int64_t elems,
                  std::string_view operation) {
  EW_CHECK(static_cast<int>(owned.size()) == group.size(), "'{}': owners of {} members for {}",
           operation, owned.size(), group.size());
  for (const auto& ranges : owned)
    for (const ElementRange& range : ranges)
      EW_CHECK(0 <= range.begin && range.begin <= range.end && range.end <= elems,
               "'{}': elements [{}, {}) of {}", operation, range.begin, range.end, elems);
}

std::int64_t count_of(const std::vector<ElementRange>& ranges) {
  std::int64_t count = 0;
  for (const ElementRange& range : ranges) count += range.count();
  return count;
}

/// The bytes of `ranges`, empty ones left out.
template <typename Byte>
std::vector<std::span<Byte>> pieces_of(const std::vector<ElementRange>& ranges,
                                       std::int64_t elem_bytes, std::span<Byte> bytes) {
  std::vector<std::span<Byte>> pieces;
  pieces.reserve(ranges.size());
  for (const ElementRange& range : ranges)
    if (range.count() > 0)
      pieces.push_back(bytes.subspan(static_cast<std::size_t>(range.begin * elem_bytes),
                                     static_cast<std::size_t>(range.count() * elem_bytes)));
  return pieces;
}

/// Recursive doubling. The members beyond the largest power of two first give their vector to a
/// partner and get the result from it at the end. (Thakur, Rabenseifner, Gropp, "Optimization of
/// collective communication operations in MPICH", 2005, section 4.)
Result<void> all_reduce_whole(Collective& members, std::span<std::int64_t> inout) {
  std::vector<std::int64_t> other(inout.size());
  const auto other_bytes = std::as_writable_bytes(std::span(other));
  int power = 1;
  while (power * 2 <= members.size()) power *= 2;
  const int extra = members.size() - power;
  const int me = members.me();
  if (me >= power) {
    members.send(me - power, {std::as_bytes(inout)});
    EW_TRY(members.finish());
    members.receive(me - power, {std::as_writable_bytes(inout)});
    return members.finish();
  }
  if (me < extra) {
    members.receive(me + power, {other_bytes});
    EW_TRY(members.finish());
    add(inout, other);
  }
  for (int distance = 1; distance < power; distance *= 2) {
    members.send(me ^ distance, {std::as_bytes(inout)});
    members.receive(me ^ distance, {other_bytes});
    EW_TRY(members.finish());
    add(inout, other);
  }
  if (me < extra) {
    members.send(me + power, {std::as_bytes(inout)});
    EW_TRY(members.finish());
  }
  return {};
}

/// Every member sums one slice and hands it to all: 2 (n-1)/n of the vector each way.
Result<void> all_reduce_sliced(Collective& members, std::span<std::int64_t> inout) {
  const auto n = static_cast<std::size_t>(members.size());
  auto slice = [&](int index) {
    const std::size_t begin = inout.size() * static_cast<std::size_t>(index) / n;
    const std::size_t end = inout.size() * static_cast<std::size_t>(index + 1) / n;
    return inout.subspan(begin, end - begin);
  };
  const auto mine = slice(members.me());
  std::vector<std::int64_t> others(mine.size() * n);
  auto row = [&](int index) {
    return std::span(others).subspan(mine.size() * static_cast<std::size_t>(index), mine.size());
  };
  for (int i = 0; i < members.size(); ++i)
    if (i != members.me()) members.receive(i, {std::as_writable_bytes(row(i))});
  for (int i = 0; i < members.size(); ++i)
    if (i != members.me()) members.send(i, {std::as_bytes(slice(i))});
  EW_TRY(members.finish());
  for (int i = 0; i < members.size(); ++i)
    if (i != members.me()) add(mine, row(i));
  for (int i = 0; i < members.size(); ++i)
    if (i != members.me()) members.receive(i, {std::as_writable_bytes(slice(i))});
  for (int i = 0; i < members.size(); ++i)
    if (i != members.me()) members.send(i, {std::as_bytes(mine)});
  return members.finish();
}

}  // namespace

int Group::index_of(int world_rank) const {
  const auto found = std::find(world_ranks.begin(), world_ranks.end(), world_rank);
  return found == world_ranks.end() ? -1 : static_cast<int>(found - world_ranks.begin());
}

Group everyone(const World& world) {
  const auto live = world.live();
  return {{live.begin(), live.end()}, world.generation()};
}

Result<void> all_reduce_sum(World& world, const Group& group, std::span<std::int64_t> inout,
                            std::string_view operation, Deadline deadline) {
  Collective members(world, group, operation, deadline);
  if (members.size() == 1) return {};
  const bool sliced =
      static_cast<std::int64_t>(inout.size_bytes()) >= kSliceFromBytes && members.size() > 2;
  return sliced ? all_reduce_sliced(members, inout) : all_reduce_whole(members, inout);
}

Result<void> broadcast(World& world, const Group& group, int root_index, std::span<std::byte> bytes,
                       std::string_view operation, Deadline deadline) {
  Collective members(world, group, operation, deadline);
  EW_CHECK(root_index >= 0 && root_index < group.size(), "root {} of {}", root_index, group.size());
  // Binomial tree over positions relative to the root: the parent clears the lowest set bit.
  const int n = members.size();
  const int position = (members.me() - root_index + n) % n;
  auto member_at = [&](int p) { return (p + root_index) % n; };
  int bit = 1;
  while (bit < n && (position & bit) == 0) bit *= 2;
  if (position != 0) {
    members.receive(member_at(position & (position - 1)), {bytes});
    EW_TRY(members.finish());
  }
  for (bit /= 2; bit >= 1; bit /= 2)
    if (position + bit < n) members.send(member_at(position + bit), {bytes});
  return members.finish();
}

Result<void> all_gather(World& world, const Group& group, std::span<const std::byte> in,
                        std::span<std::byte> out, std::string_view operation, Deadline deadline) {
  Collective members(world, group, operation, deadline);
  const int n = members.size();
  EW_CHECK(out.size() == in.size() * static_cast<std::size_t>(n), "{} bytes for {} rows of {}",
           out.size(), n, in.size());
  auto row = [&](int index) {
    return out.subspan(in.size() * static_cast<std::size_t>(index % n), in.size());
  };
  std::copy(in.begin(), in.end(), row(members.me()).begin());
  // Bruck's algorithm: after each round everybody holds the rows of twice as many members from
  // itself upwards. Pieces put the rows where they belong, which saves its final rotation.
  for (int held = 1; held < n;) {
    const int more = std::min(held, n - held);
    ConstPieces to_send;
    Pieces to_receive;
    for (int i = 0; i < more; ++i) {
      to_send.push_back(row(members.me() + i));
      to_receive.push_back(row(members.me() + held + i));
    }
    members.receive((members.me() + held) % n, std::move(to_receive));
    members.send((members.me() - held + n) % n, std::move(to_send));
    EW_TRY(members.finish());
    held += more;
  }
  return {};
}

Result<void> reduce_scatter_sum(World& world, const Group& group, const OwnedRanges& owned,
                                std::span<std::int64_t> inout, std::string_view operation,
                                Deadline deadline) {
  Collective members(world, group, operation, deadline, Channel::reduce);
  check_ranges(owned, group, static_cast<std::int64_t>(inout.size()), operation);
  const int n = members.size(), me = members.me();
  const auto& mine = owned[static_cast<std::size_t>(me)];
  const auto count = static_cast<std::size_t>(count_of(mine));
  // Owners do not touch each other's ranges, so all sends can be under way from the start. Of the
  // receives the next one is, while the last is being added.
  std::vector<std::int64_t> staging(2 * count);
  auto buffer = [&](int distance) {
    return std::span(staging).subspan(distance % 2 == 0 ? 0 : count, count);
  };
  auto receive = [&](int distance) {
    return members.start_receive((me - distance + n) % n,
                                 {std::as_writable_bytes(buffer(distance))});
  };
  Work next;
  if (n > 1 && count > 0) next = receive(1);
  for (int distance = 1; distance < n; ++distance) {
    const int to = (me + distance) % n;
    auto pieces = pieces_of(owned[static_cast<std::size_t>(to)],
                            static_cast<std::int64_t>(sizeof(std::int64_t)),
                            std::as_bytes(std::span<const std::int64_t>(inout)));
    if (!pieces.empty()) members.send(to, std::move(pieces));
  }
  for (int distance = 1; distance < n && count > 0; ++distance) {
    const Work current = next;
    if (distance + 1 < n) next = receive(distance + 1);
    EW_TRY(members.wait(current));
    auto addend = buffer(distance);
    for (const ElementRange& range : mine) {
      const auto length = static_cast<std::size_t>(range.count());
      add(inout.subspan(static_cast<std::size_t>(range.begin), length), addend.first(length));
      addend = addend.subspan(length);
    }
  }
  return members.finish();
}

Result<void> all_gather_v(World& world, const Group& group, const OwnedRanges& owned,
                          std::int64_t elem_bytes, std::span<std::byte> inout,
                          std::string_view operation, Deadline deadline) {
  Collective members(world, group, operation, deadline, Channel::gather);
  EW_CHECK(elem_bytes >= 1 && static_cast<std::int64_t>(inout.size()) % elem_bytes == 0,
           "'{}': {} bytes as elements of {}", operation, inout.size(), elem_bytes);
  check_ranges(owned, group, static_cast<std::int64_t>(inout.size()) / elem_bytes, operation);
  const int n = members.size(), me = members.me();
  auto ranges_of = [&](int index) -> const auto& {
    return owned[static_cast<std::size_t>(index)];
  };
  for (int distance = 1; distance < n; ++distance) {
    const int from = (me - distance + n) % n;
    auto pieces = pieces_of(ranges_of(from), elem_bytes, inout);
    if (!pieces.empty()) members.receive(from, std::move(pieces));
  }
  const auto mine =
      pieces_of(ranges_of(me), elem_bytes, std::span<const std::byte>(inout.data(), inout.size()));
  for (int distance = 1; distance < n && !mine.empty(); ++distance)
    members.send((me + distance) % n, mine);
  return members.finish();
}

}  // namespace elaswave::comm
