#include "parallel/comm/group.h"

#include <algorithm>
#include <numeric>

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
  Collective(World& world, const Group& group, std::string_view operation, Deadline deadline)
      : world_(world), group_(group), operation_(operation), deadline_(deadline) {
    me_ = group.index_of(world.world_rank());
    EW_CHECK(me_ >= 0, "rank {} calls '{}' of a group it is not in", world.world_rank(), operation);
    EW_CHECK(group.generation == world.generation(),
             "'{}' in a group of generation {}, the world is at {}", operation,
             raw(group.generation), raw(world.generation()));
  }

  int me() const { return me_; }
  int size() const { return group_.size(); }

  void send(int index, ConstPieces pieces) {
    works_.push_back(world_.send(rank_of(index), Channel::control, std::move(pieces)));
  }
  void receive(int index, Pieces pieces) {
    works_.push_back(world_.receive(rank_of(index), Channel::control, std::move(pieces)));
  }
  /// Waits for everything started so far.
  Result<void> finish() {
    for (const Work& work : works_) EW_TRY(world_.wait(work, operation_, deadline_));
    works_.clear();
    return {};
  }

 private:
  int rank_of(int index) const { return group_.world_ranks[static_cast<std::size_t>(index)]; }

  World& world_;
  const Group& group_;
  std::string_view operation_;
  Deadline deadline_;
  int me_ = 0;
  std::vector<Work> works_;
};

// Two's complement addition without undefined overflow.
void add(std::span<std::int64_t> sum, std::span<const std::int64_t> addend) {
  for (std::size_t i = 0; i < sum.size(); ++i)
    sum[i] = static_cast<std::int64_t>(static_cast<std::uint64_t>(sum[i]) +
                                       static_cast<std::uint64_t>(addend[i]));
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
  const auto found = std::lower_bound(world_ranks.begin(), world_ranks.end(), world_rank);
  if (found == world_ranks.end() || *found != world_rank) return -1;
  return static_cast<int>(found - world_ranks.begin());
}

Group everyone(const World& world) {
  Group group{std::vector<int>(static_cast<std::size_t>(world.size())), world.generation()};
  std::iota(group.world_ranks.begin(), group.world_ranks.end(), 0);
  return group;
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

}  // namespace elaswave::comm
