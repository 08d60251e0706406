#include "app/engine.h"

#include <algorithm>
#include <utility>

#include "io/base/mutant.h"
#include "model/gpt/init.h"
#include "model/optim/copy_digest.h"
#include "model/optim/update.h"
#include "parallel/pipeline/links.h"
#include "parallel/zero/reducer.h"

namespace elaswave::app {
namespace {

replica::Followers followers_of(EngineParts& parts) {
  return {parts.blocks, parts.plan, std::move(parts.missing), parts.spec.elastic.fill_elems};
}

}  // namespace

std::unique_ptr<Engine::Stores> Engine::make_stores(const EngineParts& parts, Engine* before) {
  std::vector<bool> held = zero::held_parts(parts.plan, parts.blocks, parts.world.world_rank());
  if (before != nullptr && before->stores_->held == held) return std::move(before->stores_);
  if (before != nullptr) {
    parts.machine.stream.synchronize();
    before->stores_.reset();  // both at once might not fit
  }
  zero::TensorStore working(parts.blocks, gpt::working_bytes(parts.inventory, held),
                            parts.machine.stream.device());
  zero::GradSums sums(parts.blocks, parts.spec.sum_mode, held, parts.machine.arithmetic);
  return std::make_unique<Stores>(Stores{std::move(held), std::move(working), std::move(sums)});
}

Engine::Engine(EngineParts parts, std::unique_ptr<Engine> before)
    : parts_(std::move(parts)),
      place_(layout::place_of(parts_.plan, parts_.world.world_rank())),
      share_(std::ssize(layout::micro_batches_of(parts_.plan, place_))),
      exchange_(parts_.blocks, parts_.plan, parts_.world.world_rank()),
      stores_(make_stores(parts_, before.get())),
      reduction_(std::make_unique<zero::Reducer>(parts_.world, exchange_, parts_.blocks,
                                                 stores_->sums, parts_.spec.timeout)),
      gatherer_(parts_.world, exchange_, parts_.blocks, stores_->working, parts_.spec.timeout),
      owned_(parts_.blocks, parts_.shard, parts_.machine.stream),
      parameters_(parts_.inventory, stores_->working, place_.slice),
      gradients_(parts_.inventory, stores_->sums, parts_.spec.micro_batches,
                 parts_.spec.head_addends(), place_.slice),
      backups_(parts_.world, parts_.shard, followers_of(parts_), parts_.spec.timeout),
      boundary_world_(parts_.world, parts_.spec.timeout) {
  before.reset();  // its activations make room for ours
  runner_ = make_runner();
  if (parts_.machine.stream.device().host_reads()) return;
  try {
    prepare_device();
  } catch (const device::OutOfMemory&) {
    parts_.machine.stream.synchronize();  // it works on memory that goes
    throw;
  }
}

// Called for what it leaves behind: a step must find all memory, code and plans of libraries there.
void Engine::prepare_device() {
  std::vector<comm::Expected> messages;
  const auto add = [&](const std::vector<comm::Expected>& more) {
    messages.insert(messages.end(), more.begin(), more.end());
  };
  if (parts_.lanes == nullptr || !parts_.lanes->direct()) {
    add(reduction_->messages());
    add(gatherer_.messages());
  }
  if (runner_) {
    const Result<void> rehearsed = runner_->rehearse();
    EW_CHECK(rehearsed, "a rehearsal without messages failed: {}", rehearsed.error().text());
    add(runner_->messages());
  }
  std::vector<std::int64_t> block_elems;
  for (const zero::HeldBlock& owned : parts_.shard.owned())
    block_elems.push_back(parts_.blocks.block(owned.block).elems);
  parts_.machine.ops.reserve_lists(parts_.machine.stream, block_elems);
  parts_.world.expect(messages);
}

Engine::~Engine() {
  try {
    parts_.machine.stream.synchronize();
  } catch (const device::DeviceLost&) {
    // Told by whoever uses it next.
  }
}

std::unique_ptr<StageRunner> Engine::make_runner() {
  if (place_.stage < 0) return nullptr;
  return std::make_unique<StageRunner>(RunnerParts{
      .world = boundary_world_,
      .spec = parts_.spec,
      .plan = parts_.plan,
      .place = place_,
      .inventory = parts_.inventory,
      .machine = parts_.machine,
      .parameters = parameters_,
      .gradients = gradients_,
      .ready = [this](std::int32_t layer) { return ready(layer); },
      .sums_done = [this](std::int32_t layer, bool tied) { return reduction_->done(layer, tied); },
      .between = [this] { return reduction_->progress(); },
      .slow_factor = parts_.slow_factor});
}

void Engine::take_state() {
  owned_.load();
  optim::store_weights(parts_.machine, parts_.inventory, parts_.blocks, parts_.shard, owned_,
                       stores_->working);
}

Result<void> Engine::gather() {
  if (!std::exchange(connected_, true)) EW_TRY(connect());
  return gatherer_.start(parts_.shard.version);
}

Result<void> Engine::connect() {
  using Use = comm::LaneName::Use;
  if (parts_.lanes == nullptr || !parts_.lanes->direct()) return {};
  const auto deadline = [this] {
    return Deadline::after(parts_.world.clock(), parts_.spec.timeout);
  };
  const auto others = [this](std::vector<int> ranks) {
    std::erase(ranks, parts_.world.world_rank());
    return ranks;
  };
  EW_ASSIGN(comm::DeviceLane * sums,
            parts_.lanes->lane({Use::sums}, others(exchange_.members()), deadline()));
  reduction_.reset();  // both at once might not fit
  lane_ =
      std::make_unique<zero::LaneExchange>(zero::LaneExchangeParts{.world = parts_.world,
                                                                   .lane = *sums,
                                                                   .exchange = exchange_,
                                                                   .blocks = parts_.blocks,
                                                                   .sums = stores_->sums,
                                                                   .working = stores_->working,
                                                                   .limits = parts_.lanes->limits(),
                                                                   .timeout = parts_.spec.timeout});
  reduction_ = std::make_unique<zero::LaneReducer>(*lane_, exchange_, stores_->sums);
  gatherer_.travel_by(*lane_);
  if (parts_.plan.tensor_degree > 1) {
    std::vector<int> slices;
    if (runner_) slices = parts_.plan.replica(place_.stage, place_.replica).world_ranks;
    EW_ASSIGN(comm::DeviceLane * lane,
              parts_.lanes->lane({Use::slices}, others(std::move(slices)), deadline()));
    if (runner_) runner_->slices_travel_by(*lane);
  }
  return connect_links();
}

Result<void> Engine::connect_links() {
  const std::int32_t self = parts_.world.world_rank();
  const std::vector<pipeline::RankLink> links = pipeline::links(parts_.plan);
  for (std::int32_t number = 0; number < pipeline::lane_count(links); ++number) {
    const auto mine = std::ranges::find_if(links, [&](const pipeline::RankLink& link) {
      return link.lane == number && (link.from == self || link.to == self);
    });
    std::vector<int> peer;
    if (mine != links.end()) peer.push_back(mine->from == self ? mine->to : mine->from);
    EW_ASSIGN(comm::DeviceLane * lane,
              parts_.lanes->lane({comm::LaneName::Use::link, number}, peer,
                                 Deadline::after(parts_.world.clock(), parts_.spec.timeout)));
    if (mine == links.end()) continue;
    const auto direction = mine->from == self ? comm::Direction::send : comm::Direction::receive;
    boundary_world_.link(peer.front(), direction, *lane);
  }
  return {};
}

Result<void> Engine::ready(std::int32_t layer) {
  EW_TRY(gatherer_.wait(layer));
  EW_CHECK(gatherer_.version(layer) == parts_.shard.version,
           "layer {} has working weights of step {}, the state is at {}", layer,
           raw(gatherer_.version(layer).step), raw(parts_.shard.version.step));
  return {};
}

Result<Tally> Engine::compute(Step step, const StageRunner::Source& source,
                              const StageRunner::Source& blank) {
  EW_TRY(reduction_->begin_step());
  if (!mutant(Mutant::sums_not_cleared)) stores_->sums.begin_step();
  gradients_.clear_flags();
  backups_.begin_step();
  parts_.world.probe(Point::before_forward);
  Tally tally;
  if (runner_) {
    EW_ASSIGN(tally, runner_->train(step, source, blank));
  }
  parts_.world.probe(Point::after_backward);
  // A replica without a share still owes its peers its (empty) sums.
  if (share_ == 0) EW_TRY(reduction_->done_rest());
  return tally;
}

Result<Tally> Engine::evaluate(std::int64_t count, const StageRunner::Source& source,
                               const StageRunner::Source& blank) {
  if (!runner_) return Tally{};
  return runner_->evaluate(parts_.shard.version.step, count, source, blank);
}

Result<void> Engine::reduce() {
  return reduction_->finish();
}

Result<void> Engine::log(Step step, optim::CommitVote& vote) {
  const kernels::Machine& machine = parts_.machine;
  optim::log_gradients(machine, parts_.blocks, parts_.shard, owned_, stores_->sums,
                       parts_.spec.micro_batches, vote);
  vote.copy_digest = optim::copy_digest(machine, parts_.shard, owned_, backups_.shared(), step,
                                        parts_.spec.elastic.scrub_steps);
  if (!mutant(Mutant::commit_without_copies)) EW_TRY(send_log());
  vote.copies_logged += backups_.logged();
  return {};
}

Result<void> Engine::send_log() {
  if (backups_.sends()) owned_.wait_log();  // else nothing in this step needs it on the host
  return backups_.log();
}

Result<void> Engine::before_apply() {
  EW_TRY(gatherer_.begin_apply());
  if (mutant(Mutant::commit_without_copies)) EW_TRY(send_log());
  return backups_.before_apply();
}

void Engine::apply(const optim::CommitRecord& record) {
  optim::apply(parts_.machine, parts_.inventory, parts_.blocks, parts_.shard, owned_,
               backups_.following(), record, stores_->working);
  backups_.committed();
  parts_.shard.drop_unused();
}

void Engine::roll_forward(const optim::CommitRecord& record) {
  // A copy that was being filled in that step may have got its log and not its state.
  std::vector<zero::HeldBlock> copies;
  for (const zero::HeldBlock& held : parts_.shard.backups())
    if (parts_.shard.whole(held.block)) copies.push_back(held);
  optim::apply(parts_.machine, parts_.inventory, parts_.blocks, parts_.shard, owned_, copies,
               record, stores_->working);
  parts_.shard.drop_unused();
}

Result<void> Engine::settle() {
  EW_TRY(before_apply());
  return reduction_->begin_step();
}

std::int64_t Engine::cost_ns() const {
  return share_ > 0 ? time().actions / share_ : 0;
}

pipeline::RunTime Engine::time() const {
  return runner_ ? runner_->time() : pipeline::RunTime{};
}

void Engine::add_memory(spec::MemoryTable& use) const {
  using enum spec::MemoryTerm;
  use[weights] += static_cast<double>(stores_->working.size_bytes());
  use[sums] += static_cast<double>(stores_->sums.size_bytes());
  use[exchange] += static_cast<double>(reduction_->buffer_bytes());
  if (!parts_.machine.stream.device().host_reads()) add_device_memory(use);
  if (!runner_) return;
  const gpt::ActivationBytes activations = runner_->activation_bytes();
  use[stashes] += static_cast<double>(activations.stash);
  use[head] += static_cast<double>(activations.keep);
  use[weight_stashes] += static_cast<double>(activations.weight_stash);
  use[scratch] += static_cast<double>(activations.scratch);
  use[boundaries] += static_cast<double>(runner_->boundary_bytes());
}

void Engine::add_device_memory(spec::MemoryTable& use) const {
  using enum spec::MemoryTerm;
  const kernels::KeptMemory kept = parts_.machine.ops.kept_memory(parts_.machine.stream);
  use[state_copy] += static_cast<double>(owned_.size_bytes());
  use[logits] += static_cast<double>(kept.logits_bytes);
  use[workspaces] += static_cast<double>(kept.device_bytes - kept.logits_bytes);
  use[staging] +=
      static_cast<double>(parts_.world.staging_bytes() + kept.host_bytes + gradients_.flag_bytes());
  if (!runner_) return;
  use[workspaces] += static_cast<double>(runner_->id_bytes());
  use[staging] += static_cast<double>(runner_->host_bytes());
  use[slice_sums] += static_cast<double>(runner_->slice_sum_bytes());
}

}  // namespace elaswave::app
