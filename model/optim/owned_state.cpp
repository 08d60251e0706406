#include "model/optim/owned_state.h"

namespace elaswave::optim {
namespace {

constexpr std::int64_t kKinds = 4;       // master, both moments, log
constexpr std::int64_t kLog = 3;         // the last of them
constexpr std::int64_t kLineElems = 16;  // 64 bytes: where every block starts
constexpr auto kFloatBytes = static_cast<std::int64_t>(sizeof(float));

}  // namespace

OwnedState::OwnedState(const layout::BlockTable& blocks, zero::Shard& shard, device::Stream& stream)
    : blocks_(blocks), shard_(shard), stream_(stream) {
  if (stream.device().host_reads()) return;
  std::int64_t elems = 0;
  for (const zero::HeldBlock& owned : shard.owned()) {
    offsets_.push_back(elems);
    elems += round_up(blocks.block(owned.block).elems, kLineElems);
  }
  offsets_.push_back(elems);
  memory_ = device::Buffer(stream.device(), kKinds * elems * kFloatBytes);
  runs_ = find_runs();
  for (const Run& run : runs_) shard_logs_.push_back(in_shard(run.first, kLog).data());
  copies_ = stream.beside();
}

OwnedState::~OwnedState() {
  shard_.wait_for_update();
  try {
    if (copies_) copies_->synchronize();
  } catch (const device::DeviceLost&) {
    // Told by whoever uses the device next.
  }
}

std::vector<OwnedState::Run> OwnedState::find_runs() {
  std::vector<Run> runs;
  for (std::size_t index = 0; index < shard_.owned().size(); ++index) {
    const std::int64_t elems = offsets_[index + 1] - offsets_[index];
    bool joins = !runs.empty();
    for (std::int64_t kind = 0; joins && kind < kKinds; ++kind)
      joins = in_shard(index, kind).data() ==
              in_shard(runs.back().first, kind).data() + runs.back().elems;
    if (joins)
      runs.back().elems += elems;
    else
      runs.push_back({.offset = offsets_[index], .elems = elems, .first = index});
  }
  return runs;
}

std::span<float> OwnedState::in_shard(std::size_t index, std::int64_t kind) {
  const zero::HeldBlock& owned = shard_.owned()[index];
  switch (kind) {
    case 0:
      return shard_.master(owned);
    case 1:
      return shard_.moment1(owned);
    case 2:
      return shard_.moment2(owned);
    default:
      return shard_.log(owned);
  }
}

std::span<float> OwnedState::range(std::size_t index, std::int64_t kind) {
  if (!mirrored()) return in_shard(index, kind);
  const std::int64_t elems = blocks_.block(shard_.owned()[index].block).elems;
  return memory_.as<float>().subspan(
      static_cast<std::size_t>(kind * offsets_.back() + offsets_[index]),
      static_cast<std::size_t>(elems));
}

float* OwnedState::on_device(const Run& run, std::int64_t kind) {
  return memory_.as<float>().data() + kind * offsets_.back() + run.offset;
}

void OwnedState::load() {
  if (!mirrored()) return;
  for (const Run& run : runs_)
    for (std::int64_t kind = 0; kind < kLog; ++kind)
      stream_.copy(on_device(run, kind), in_shard(run.first, kind).data(), run.elems * kFloatBytes);
}

void OwnedState::begin_log() {
  shard_.settle();
  wait_log();  // a skipped step has no update, and so nothing that waited
}

void OwnedState::store_log() {
  if (!mirrored()) return;
  copies_->follow(stream_, stream_.mark());
  for (std::size_t run = 0; run < runs_.size(); ++run)
    copies_->copy(shard_logs_[run], on_device(runs_[run], kLog), runs_[run].elems * kFloatBytes);
}

void OwnedState::wait_log() {
  if (mirrored()) copies_->synchronize();
}

}  // namespace elaswave::optim
