// The slices of one tensor-parallel replica. Between its split products the rows (tokens) of an
// activation are divided over the slices (sequence parallelism, Korthikanti et al., arXiv
// 2205.05198); sums over slices are taken in slice order, never in order of arrival.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "parallel/comm/device_lanes.h"
#include "parallel/comm/world.h"
#include "parallel/device/arithmetic.h"

namespace elaswave::comm {

/// Rows [begin, end) of `rows` that slice `slice` of `slices` holds: as even as can be.
struct RowRange {
  std::int64_t begin = 0, end = 0;
  std::int64_t count() const { return end - begin; }
};
constexpr RowRange rows_of_slice(std::int64_t rows, int slice, int slices) {
  return {rows * slice / slices, rows * (slice + 1) / slices};
}

/// Every slice sends each other slice what that one needs, directly: the fewest bytes and one hop,
/// and a replica has few slices. Rows travel from and into the callers' memory, contiguous or not.
/// THREADS: the rank's compute thread. All calls are COLLECTIVE over the slices, in the same order,
/// with equal shapes; errors are those of World::wait().
class SliceGroup {
 public:
  /// `world_ranks` in slice order; this rank is one of them. Activations are memory of the
  /// arithmetic's device.
  SliceGroup(World& world, std::vector<int> world_ranks, Nanoseconds timeout,
             device::Arithmetic& arithmetic = device::host_arithmetic());

  /// While silent, calls do all but exchange messages: what other slices would have sent is
  /// whatever lies there. For a rehearsal, in which every slice works alone.
  void set_silent(bool silent) { silent_ = silent; }
  /// From the next call on, on all slices: rows travel by `lane`, which is connected with them.
  /// Activations then have no gaps between their rows.
  void travel_by(DeviceLane& lane) { lane_ = &lane; }

  int slices() const { return static_cast<int>(world_ranks_.size()); }
  int slice() const { return slice_; }
  RowRange rows(std::int64_t total) const { return rows_of_slice(total, slice_, slices()); }

  /// Memory of the device taken so far.
  std::int64_t staging_bytes() const { return staging_.size_bytes(); }

  /// Every slice's own rows of an activation into all rows, everywhere. `mine` may lie inside
  /// `all`, in its place. Types and widths equal; strides free; a slice may have no rows.
  Result<void> gather_rows(device::ConstMat mine, device::Mat all, std::string_view operation);
  /// `mine` becomes this slice's rows of ((p0 + p1) + p2) + ..., p_i the `partial` of slice i (f32,
  /// all rows), summed in f32 and rounded once to the type of `mine` (f32 or bf16). An f32 `mine`
  /// may lie inside `partial`, in its place.
  Result<void> scatter_sum(device::ConstMat partial, device::Mat mine, std::string_view operation);
  /// Row i of `out` becomes the `in` of slice i; same length everywhere. `in` may be its own row.
  Result<void> gather(std::span<const std::byte> in, std::span<std::byte> out,
                      std::string_view operation);

 private:
  int rank_of(int slice) const { return world_ranks_[static_cast<std::size_t>(slice)]; }

  class Exchange;

  World& world_;
  device::Arithmetic& arithmetic_;
  DeviceLane* lane_ = nullptr;  // null: through the world
  std::vector<int> world_ranks_;
  int slice_ = 0;
  Nanoseconds timeout_;
  bool silent_ = false;
  device::Array<float> staging_;  // peers' partial rows; as large as was ever needed
};

}  // namespace elaswave::comm
