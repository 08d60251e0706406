#include "parallel/comm/slice_group.h"

#include <algorithm>
#include <utility>

#include "io/base/mutant.h"

namespace elaswave::comm {
namespace {

using device::ConstMat;
using device::Mat;

/// The rows of a matrix as they travel, one after another without gaps: one piece where they
/// already lie so, else a piece per row.
template <typename Byte>
std::vector<std::span<Byte>> pieces_of(const device::MatView<Byte>& rows) {
  const auto row_bytes = static_cast<std::size_t>(rows.cols * size_bytes(rows.dtype));
  if (rows.contiguous())
    return {std::span<Byte>(rows.data, row_bytes * static_cast<std::size_t>(rows.rows))};
  std::vector<std::span<Byte>> pieces;
  pieces.reserve(static_cast<std::size_t>(rows.rows));
  for (std::int64_t r = 0; r < rows.rows; ++r) pieces.emplace_back(rows.row(r), row_bytes);
  return pieces;
}

/// Both ends of a lane cut messages alike: into one.
template <typename Byte>
std::span<Byte> only(const std::vector<std::span<Byte>>& pieces, std::string_view operation) {
  EW_CHECK(pieces.size() == 1, "'{}': {} rows with gaps between them on a lane", operation,
           pieces.size());
  return pieces.front();
}

}  // namespace

/// One direct exchange. Each pair of slices whose message would be empty sends none: both ends know
/// the counts. Works still under way when a wait fails need no care (world.h).
class SliceGroup::Exchange {
 public:
  Exchange(SliceGroup& group, std::string_view operation)
      : group_(group),
        operation_(operation),
        deadline_(Deadline::after(group.world_.clock(), group.timeout_)) {}

  void send(int slice, ConstPieces pieces) {
    if (group_.silent_) return;
    const int to = group_.rank_of(slice);
    if (group_.lane_ == nullptr)
      works_.push_back(group_.world_.send(to, Channel::tensor, std::move(pieces)));
    else
      batch_.sends.push_back({to, only(pieces, operation_)});
  }
  void receive(int slice, Pieces pieces) {
    if (group_.silent_) return;
    const int from = group_.rank_of(slice);
    if (group_.lane_ == nullptr)
      works_.push_back(group_.world_.receive(from, Channel::tensor, std::move(pieces)));
    else
      batch_.receives.push_back({from, only(pieces, operation_)});
  }
  /// What goes by a lane moves from here on: all slices come here in the same order.
  Result<void> finish() {
    for (const Work& work : works_) EW_TRY(group_.world_.wait(work, operation_, deadline_));
    if (group_.lane_ == nullptr || group_.silent_) return {};
    EW_ASSIGN(const device::Mark mark, group_.lane_->start(batch_, operation_, deadline_));
    return group_.lane_->wait(mark, operation_, deadline_);
  }

 private:
  SliceGroup& group_;
  std::string_view operation_;
  Deadline deadline_;
  bool silent_;
  std::vector<Work> works_;
  LaneBatch batch_{.channel = Channel::tensor};
};

SliceGroup::SliceGroup(World& world, std::vector<int> world_ranks, Nanoseconds timeout,
                       device::Arithmetic& arithmetic)
    : world_(world),
      arithmetic_(arithmetic),
      world_ranks_(std::move(world_ranks)),
      timeout_(timeout) {
  const auto found = std::find(world_ranks_.begin(), world_ranks_.end(), world.world_rank());
  EW_CHECK(found != world_ranks_.end(), "rank {} makes a slice group it is not in",
           world.world_rank());
  slice_ = static_cast<int>(found - world_ranks_.begin());
}

Result<void> SliceGroup::gather_rows(ConstMat mine, Mat all, std::string_view operation) {
  EW_CHECK(mine.dtype == all.dtype && mine.cols == all.cols, "{} x {} rows into {} x {}",
           name(mine.dtype), mine.cols, name(all.dtype), all.cols);
  EW_CHECK(mine.rows == rows(all.rows).count(), "slice {} of {} gives {} rows of {}", slice_,
           slices(), mine.rows, all.rows);
  auto rows_of = [&](int slice) {
    const RowRange range = rows_of_slice(all.rows, slice, slices());
    return all.rows_from(range.begin, range.count());
  };
  Exchange exchange(*this, operation);
  for (int distance = 1; distance < slices() && all.cols > 0; ++distance) {
    const int from = (slice_ - distance + slices()) % slices();
    if (const Mat theirs = rows_of(from); theirs.rows > 0)
      exchange.receive(from, pieces_of(theirs));
  }
  for (int distance = 1; distance < slices() && mine.elems() > 0; ++distance)
    exchange.send((slice_ + distance) % slices(), pieces_of(mine));
  arithmetic_.copy_rows(mine, rows_of(slice_));
  return exchange.finish();
}

Result<void> SliceGroup::scatter_sum(ConstMat partial, Mat mine, std::string_view operation) {
  EW_CHECK(partial.dtype == DType::f32, "partial sums of {}", name(partial.dtype));
  EW_CHECK(mine.cols == partial.cols && mine.rows == rows(partial.rows).count(),
           "slice {} of {} takes {} x {} of {} x {}", slice_, slices(), mine.rows, mine.cols,
           partial.rows, partial.cols);
  const std::int64_t count = mine.elems();
  if (staging_.size() < count * (slices() - 1))
    staging_ = device::Array<float>(arithmetic_.device(), count * (slices() - 1));
  // The peers' rows in slice order, this slice's left out.
  auto theirs = [&](int slice) {
    const auto place = static_cast<std::size_t>(slice < slice_ ? slice : slice - 1);
    return staging_.span().subspan(place * static_cast<std::size_t>(count),
                                   static_cast<std::size_t>(count));
  };
  Exchange exchange(*this, operation);
  for (int distance = 1; distance < slices() && count > 0; ++distance) {
    const int from = (slice_ - distance + slices()) % slices();
    exchange.receive(from, {std::as_writable_bytes(theirs(from))});
  }
  for (int distance = 1; distance < slices() && partial.cols > 0; ++distance) {
    const int to = (slice_ + distance) % slices();
    const RowRange range = rows_of_slice(partial.rows, to, slices());
    if (range.count() > 0)
      exchange.send(to, pieces_of(partial.rows_from(range.begin, range.count())));
  }
  EW_TRY(exchange.finish());

  if (count == 0) return {};
  std::vector<ConstMat> addends;
  for (int step = 0; step < slices(); ++step) {
    const int slice = mutant(Mutant::slices_in_arrival_order) ? (step + slice_) % slices() : step;
    const RowRange own = rows(partial.rows);
    addends.push_back(slice == slice_ ? partial.rows_from(own.begin, own.count())
                                      : ConstMat(device::mat(theirs(slice), mine.rows, mine.cols)));
  }
  arithmetic_.sum_rows(addends, mine);
  return {};
}

Result<void> SliceGroup::gather(std::span<const std::byte> in, std::span<std::byte> out,
                                std::string_view operation) {
  EW_CHECK(out.size() == in.size() * world_ranks_.size(), "{} bytes for {} rows of {}", out.size(),
           world_ranks_.size(), in.size());
  if (in.empty()) return {};
  auto row = [&](int slice) {
    return out.subspan(in.size() * static_cast<std::size_t>(slice), in.size());
  };
  Exchange exchange(*this, operation);
  for (int distance = 1; distance < slices(); ++distance) {
    const int from = (slice_ - distance + slices()) % slices();
    exchange.receive(from, {row(from)});
  }
  for (int distance = 1; distance < slices(); ++distance)
    exchange.send((slice_ + distance) % slices(), {in});
  // `in` may be this slice's row already.
  if (in.data() != row(slice_).data()) arithmetic_.copy(in, row(slice_));
  return exchange.finish();
}

}  // namespace elaswave::comm
