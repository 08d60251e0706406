#include "app/state_dump.h"

#include <array>
#include <vector>

#include "io/hdf5/file.h"
#include "model/optim/digest.h"

namespace elaswave::app {
namespace {

constexpr std::array<const char*, 3> kKinds = {"master", "moment1", "moment2"};

std::span<float> state_of(zero::Shard& shard, const zero::HeldBlock& owned, std::size_t kind) {
  if (kind == 0) return shard.master(owned);
  return kind == 1 ? shard.moment1(owned) : shard.moment2(owned);
}

// Both ends walk blocks in the same order: by block, then kind.
Result<void> send_blocks(const StateDump& dump, int reporter) {
  std::vector<comm::Work> sends;
  for (const zero::HeldBlock& owned : dump.shard.owned())
    for (std::size_t kind = 0; kind < kKinds.size(); ++kind)
      sends.push_back(dump.world.send(reporter, comm::Channel::state,
                                      {std::as_bytes(state_of(dump.shard, owned, kind))}));
  for (const comm::Work& work : sends)
    EW_TRY(dump.world.wait(work, "send state", Deadline::after(dump.world.clock(), dump.timeout)));
  return {};
}

/// COLLECTIVE. Ends on all ranks when the reporter could not go on with its file. Called where no
/// block is under way.
Result<void> agree(const StateDump& dump, const Result<void>& mine) {
  std::int64_t failed = mine ? 0 : 1;
  const auto reduced =
      comm::all_reduce_sum(dump.world, dump.group, std::span(&failed, 1), "state dump",
                           Deadline::after(dump.world.clock(), dump.timeout));
  if (!mine) return mine;  // the disk's word is worth more than a peer's absence
  EW_TRY(reduced);
  if (failed == 0) return {};
  return fail({.code = Code::io,
               .what = "the state dump could not be written",
               .where = "train.dump_state",
               .why = "the lowest rank said so",
               .fix = "see the message of that rank"});
}

Result<void> write_attributes(const StateDump& dump, hdf5::Writer& writer) {
  EW_TRY(writer.set_i64("/", "step", raw(dump.shard.version.step)));
  EW_TRY(writer.set_i64("/", "block_elems", layout::kBlockElems));
  EW_TRY(writer.set_i64("/", "block_count", optim::digest_blocks(dump.inventory)));
  return writer.set_text("/", "state_digest", fmt::format("{:016x}", dump.digest));
}

/// Row by row where the block is part of a slice.
Result<void> write_block(const spec::PartSpec& part, const layout::Block& block,
                         std::span<const float> values, hdf5::DatasetWriter& dataset) {
  Result<void> written;
  part.map.visit_runs(
      block.begin, block.elems, [&](std::int64_t index, std::int64_t element, std::int64_t length) {
        if (written)
          written =
              dataset.write(element, values.subspan(static_cast<std::size_t>(index - block.begin),
                                                    static_cast<std::size_t>(length)));
      });
  return written;
}

using Datasets = std::vector<std::array<hdf5::DatasetWriter, kKinds.size()>>;  // by tensor

Result<void> make_datasets(const StateDump& dump, hdf5::Writer& writer, Datasets& datasets) {
  datasets.resize(dump.inventory.tensors().size());
  for (std::size_t tensor = 0; tensor < datasets.size(); ++tensor) {
    const spec::TensorSpec& spec = dump.inventory.tensors()[tensor];
    const std::span<const std::int64_t> dims =
        spec.dims == 2 ? std::span(spec.shape) : std::span(spec.shape).subspan(1);
    for (std::size_t kind = 0; kind < kKinds.size(); ++kind) {
      EW_ASSIGN(datasets[tensor][kind],
                writer.create_f32(fmt::format("/{}/{}", kKinds[kind], spec.name), dims));
    }
  }
  return {};
}

/// The error returned is of the communication, that of the disk goes into `file`. After one of the
/// disk the blocks are received all the same and dropped: their senders wait until they are taken.
Result<void> write_blocks(const StateDump& dump, Datasets& datasets, Result<void>& file) {
  std::size_t mine = 0;
  std::vector<float> received;
  for (std::int64_t index = 0; index < dump.blocks.count(); ++index) {
    const layout::Block& block = dump.blocks.block(index);
    const spec::PartSpec& part = dump.inventory.part(block.part);
    const int rank = dump.plan.owner_rank(dump.blocks, index);
    const bool own = rank == dump.world.world_rank();
    for (std::size_t kind = 0; kind < kKinds.size(); ++kind) {
      std::span<const float> values;
      if (own) {
        values = state_of(dump.shard, dump.shard.owned()[mine], kind);
      } else {
        received.resize(static_cast<std::size_t>(block.elems));
        const comm::Work work = dump.world.receive(rank, comm::Channel::state,
                                                   {std::as_writable_bytes(std::span(received))});
        EW_TRY(dump.world.wait(work, "receive state",
                               Deadline::after(dump.world.clock(), dump.timeout)));
        values = received;
      }
      if (file)
        file =
            write_block(part, block, values, datasets[static_cast<std::size_t>(part.tensor)][kind]);
    }
    if (own) ++mine;
  }
  return {};
}

}  // namespace

Result<void> dump_state(const StateDump& dump, const std::string& path) {
  const int reporter = dump.group.world_ranks.front();
  if (dump.world.world_rank() != reporter) {
    EW_TRY(agree(dump, {}));
    EW_TRY(send_blocks(dump, reporter));
    return agree(dump, {});  // stays until the file is whole: closing the world has a deadline
  }
  auto writer = hdf5::Writer::create(path);
  Result<void> file = writer ? write_attributes(dump, *writer) : fail(writer.error());
  EW_TRY(agree(dump, file));
  Datasets datasets;
  file = make_datasets(dump, *writer, datasets);
  const auto received = write_blocks(dump, datasets, file);
  if (!received) return file ? received : file;
  if (file) file = writer->close();
  return agree(dump, file);
}

}  // namespace elaswave::app
