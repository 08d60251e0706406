#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>
#include <utility>

#include "parallel/pipeline/list_flow.h"
#include "parallel/pipeline/list_reserve.h"
#include "parallel/pipeline/schedule.h"

namespace elaswave::pipeline {
namespace {

using layout::Action;
using layout::Op;
using layout::Plan;
using layout::Row;

/// What a row of a stage may keep: stashes from F to B or W, and of those the ones that still wait
/// for their gradient.
struct Limits {
  std::int32_t cap = 0;
  std::int32_t window = 0;
};

/// Forwards between an F and its B or I with which a row never starves in a balanced pipeline: the
/// chunks behind it and its own, as in 1F1B; with several chunks a stage as many as start before
/// the first gradient can be back, which is the warm-up of interleaved 1F1B and of ZBV (README.md).
/// Messages under way add the work that fits in their time.
std::int32_t window_of(const Plan& plan, const Flow& flow, const Costs& costs, std::int32_t stage) {
  const std::vector<std::int32_t> chunks = chunks_of_stage(plan, stage);
  if (chunks.empty()) return 1;
  const std::int32_t first = chunks.front(), last = flow.positions - 1 - chunks.back();
  const std::int32_t balanced = chunks.size() == 1 ? flow.chunks - first : last - first;
  std::int64_t messages = 0, busy = 0;
  for (std::int32_t position = first; position < last; ++position)
    if (flow.stage_of_position[index_of(position)] !=
        flow.stage_of_position[index_of(position + 1)])
      ++messages;
  for (const ChunkCost& cost : costs.chunks)
    busy += cost.forward + cost.input_gradient + cost.weight_gradient;
  // A chunk is busy for busy / chunks with each micro-batch.
  const std::int64_t on_the_way =
      busy == 0 ? 0 : (messages * costs.message * flow.chunks + busy - 1) / busy;
  return std::max(balanced, flow.chunks_of_stage[index_of(stage)]) +
         static_cast<std::int32_t>(std::min(on_the_way, plan.micro_batches));
}

/// Steady rows keep windows; eager ones take whatever their memory allows.
enum class Pace : std::uint8_t { steady, eager };

std::vector<Limits> limits_of(const Plan& plan, const Flow& flow, const Costs& costs,
                              const ListOptions& options, Pace pace) {
  std::vector<Limits> limits;
  std::int32_t widest = 1;
  for (std::size_t stage = 0; stage < plan.stages.size(); ++stage) {
    const std::int32_t window = window_of(plan, flow, costs, static_cast<std::int32_t>(stage));
    limits.push_back({.window = window});
    widest = std::max(widest, window);
  }
  for (Limits& limit : limits) {
    limit.cap = options.cap > 0 ? options.cap : widest;
    limit.window = pace == Pace::steady ? std::min(limit.window, limit.cap) : limit.cap;
  }
  return limits;
}

/// Something that ends at a time: an action of a row, or the way of a micro-batch's message.
struct Event {
  std::int64_t time = 0;
  std::int32_t row = -1;          // becomes free
  std::int32_t micro_batch = -1;  // arrives where its next position is
  bool operator>(const Event& other) const {
    return std::tie(time, row, micro_batch) > std::tie(other.time, other.row, other.micro_batch);
  }
};

template <typename T>
using MinHeap = std::priority_queue<T, std::vector<T>, std::greater<>>;

/// The simulated execution. At each time first everything ends that ends then, after that free rows
/// choose, lowest first, until nobody can begin anything.
class Execution {
 public:
  Execution(const Plan& plan, const Costs& costs, bool split, const Flow& flow,
            const std::vector<Limits>& limits)
      : costs_(costs), flow_(flow), split_(split), stages_(plan.stages.size()) {
    const std::size_t micro_batches = index_of(plan.micro_batches);
    progress_.position.assign(micro_batches, 0);
    progress_.age.assign(micro_batches, Progress::kNotStarted);
    held_.resize(micro_batches * stages_);
    message_.assign(micro_batches, 0);
    ready_.resize(flow.lanes.size());
    links_.resize(flow.links.size());
    claimed_by_.assign(flow.links.size(), -1);
    for (std::size_t stage = 0; stage < stages_; ++stage)
      for (std::int32_t row = flow.first_row[stage]; row < flow.first_row[stage + 1]; ++row)
        rows_.emplace_back(static_cast<std::int32_t>(stage), limits[stage],
                           flow.chunks_of_stage[stage]);
    for (std::size_t micro_batch = 0; micro_batch < micro_batches; ++micro_batch)
      make_ready(static_cast<std::int32_t>(micro_batch));
  }

  void run() {
    choose();
    while (!events_.empty()) {
      now_ = events_.top().time;
      while (!events_.empty() && events_.top().time == now_) {
        const Event event = events_.top();
        events_.pop();
        if (event.row >= 0) end_action(event.row);
        if (event.micro_batch >= 0) make_ready(event.micro_batch);
      }
      choose();
    }
    for (const std::int32_t position : progress_.position)
      EW_CHECK(position == flow_.positions, "the reserves let a micro-batch starve at position {}",
               position);
  }

  std::int64_t makespan() const { return now_; }
  std::vector<Row> take_rows() && {
    std::vector<Row> schedule;
    schedule.reserve(rows_.size());
    for (RowState& row : rows_) schedule.push_back(std::move(row.done));
    return schedule;
  }

 private:
  /// Of one micro-batch on its row of one stage.
  struct Held {
    std::int32_t stashes = 0, open = 0;
  };

  struct RowState {
    RowState(std::int32_t of_stage, Limits limits, std::int32_t chunks)
        : stage(of_stage), stashes(limits.cap, chunks), open(limits.window, chunks) {}

    std::int32_t stage;
    bool busy = false, woken = false;
    bool after_forward = true;       // the last F, B or I was an F
    StashReserve stashes;            // from F to B or W
    StashReserve open;               // from F to B or I
    MinHeap<std::int64_t> expected;  // times at which messages under way arrive
    std::vector<Action> weights;     // W that may run, in the order of their I
    std::size_t weights_done = 0;
    Row done;
  };

  RowState& row_at(std::int32_t row) { return rows_[index_of(row)]; }
  const Lane& lane_at(std::int32_t lane) const { return flow_.lanes[index_of(lane)]; }
  Held& held(std::int32_t micro_batch, std::int32_t stage) {
    return held_[index_of(micro_batch) * stages_ + index_of(stage)];
  }

  void wake(std::int32_t row) {
    RowState& state = row_at(row);
    if (state.busy || state.woken) return;
    state.woken = true;
    woken_.push_back(row);
  }

  /// The oldest first; those that are not in flight are equally old, the lowest number first.
  void make_ready(std::int32_t micro_batch) {
    const std::int32_t position = progress_.position[index_of(micro_batch)];
    if (position == flow_.positions) return;
    const std::int32_t lane = flow_.lane_at(micro_batch, position);
    ready_[index_of(lane)].push({progress_.age[index_of(micro_batch)], micro_batch});
    wake(lane_at(lane).row);
  }

  void choose() {
    std::vector<std::int32_t> turn;
    while (!woken_.empty()) {
      turn.swap(woken_);
      std::sort(turn.begin(), turn.end());
      for (const std::int32_t row : turn) {
        row_at(row).woken = false;
        if (!row_at(row).busy) begin_something(row);
      }
      turn.clear();
    }
  }

  std::int32_t first_of(std::int32_t lane) const { return ready_[index_of(lane)].top().second; }

  /// Whether the oldest of a lane may begin. If it may not, nobody in the lane may: the reserves
  /// favour the old.
  bool may_begin(std::int32_t index) const {
    if (ready_[index_of(index)].empty()) return false;
    const Lane& lane = lane_at(index);
    const std::int32_t micro_batch = first_of(index);
    if (lane.link >= 0 && !links_[index_of(lane.link)].has_room(micro_batch)) return false;
    if (!flow_.is_forward(lane.position)) return true;
    const RowState& row = rows_[index_of(lane.row)];
    return row.stashes.has_room(progress_, micro_batch) &&
           row.open.has_room(progress_, micro_batch);
  }

  /// Smaller is sooner. Forward and backward in turn: that keeps both directions fed, while a run
  /// of one starves the neighbours on one side. Forwards by age. Backwards by age in groups of as
  /// many as there are rows, within a group the latest chunk first: that is the order of
  /// interleaved 1F1B.
  std::tuple<bool, std::int64_t, std::int32_t, std::int32_t> urgency(std::int32_t lane) const {
    const Lane& at = lane_at(lane);
    const auto [age, micro_batch] = ready_[index_of(lane)].top();
    const bool forward = flow_.is_forward(at.position);
    const bool again = forward == rows_[index_of(at.row)].after_forward;
    if (forward) return {again, age, 0, micro_batch};
    return {again, age / flow_.rows(), at.position, micro_batch};
  }

  /// A row has few lanes: about one a chunk and neighbour.
  void begin_something(std::int32_t row) {
    std::int32_t best = -1;
    for (std::int32_t i = flow_.lane_begin[index_of(row)]; i < flow_.lane_begin[index_of(row) + 1];
         ++i) {
      const std::int32_t lane = flow_.lanes_of_row[index_of(i)];
      if (may_begin(lane) && (best < 0 || urgency(lane) < urgency(best))) best = lane;
    }
    if (best >= 0)
      begin_chain_action(best);
    else
      begin_weight_gradient(row);
  }

  void begin_weight_gradient(std::int32_t row) {
    RowState& state = row_at(row);
    if (state.weights_done == state.weights.size()) return;
    const Action& action = state.weights[state.weights_done];
    // Others wait for what comes soon, nobody for W. Half its time is where both lose the same.
    while (!state.expected.empty() && state.expected.top() <= now_) state.expected.pop();
    const std::int64_t taken = duration(costs_, index_of(row), action);
    if (!state.expected.empty() && 2 * (state.expected.top() - now_) < taken) return;
    ++state.weights_done;
    state.busy = true;
    state.done.push_back(action);
    events_.push({.time = now_ + taken, .row = row});
  }

  void begin_chain_action(std::int32_t index) {
    const Lane& lane = lane_at(index);
    const std::int32_t micro_batch = first_of(index);
    ready_[index_of(index)].pop();
    if (lane.position == 0) admit(micro_batch);
    take_input(micro_batch, lane.position);
    progress_.position[index_of(micro_batch)] = lane.position + 1;

    RowState& state = row_at(lane.row);
    const bool forward = flow_.is_forward(lane.position);
    if (forward) {
      ++held(micro_batch, state.stage).stashes;
      ++held(micro_batch, state.stage).open;
      state.stashes.take(progress_, micro_batch,
                         [&](std::int32_t other) { return held(other, state.stage).stashes; });
      state.open.take(progress_, micro_batch,
                      [&](std::int32_t other) { return held(other, state.stage).open; });
    }
    const Op op = forward ? Op::forward : split_ ? Op::input_gradient : Op::backward;
    const Action action{op, flow_.chunk_at(lane.position), micro_batch};
    const std::int64_t end = now_ + duration(costs_, index_of(lane.row), action);
    state.busy = true;
    state.after_forward = forward;
    state.done.push_back(action);
    send_output(lane, micro_batch, end);
  }

  /// The message that a micro-batch came with is taken off its link; the sender may send again.
  void take_input(std::int32_t micro_batch, std::int32_t position) {
    if (position == 0) return;
    const std::int32_t link = lane_at(flow_.lane_at(micro_batch, position - 1)).link;
    if (link < 0) return;
    links_[index_of(link)].take(message_[index_of(micro_batch)]);
    wake(flow_.links[index_of(link)].from);
  }

  void send_output(const Lane& lane, std::int32_t micro_batch, std::int64_t end) {
    if (lane.link < 0) {
      events_.push({.time = end, .row = lane.row, .micro_batch = micro_batch});
      return;
    }
    const std::int64_t arrival = end + costs_.message;
    message_[index_of(micro_batch)] = links_[index_of(lane.link)].send(progress_);
    row_at(flow_.links[index_of(lane.link)].to).expected.push(arrival);
    const bool at_once = arrival == end;
    events_.push({.time = end, .row = lane.row, .micro_batch = at_once ? micro_batch : -1});
    if (!at_once) events_.push({.time = arrival, .micro_batch = micro_batch});
  }

  /// From now on the micro-batch has claims on everything on its way.
  void admit(std::int32_t micro_batch) {
    progress_.age[index_of(micro_batch)] = next_age_++;
    seen_.assign(stages_, false);
    for (std::int32_t position = flow_.positions; position-- > 0;) {
      const Lane& lane = lane_at(flow_.lane_at(micro_batch, position));
      if (lane.link >= 0 && claimed_by_[index_of(lane.link)] != micro_batch) {
        claimed_by_[index_of(lane.link)] = micro_batch;
        links_[index_of(lane.link)].claim(micro_batch, position);
      }
      RowState& row = row_at(lane.row);
      if (!flow_.is_forward(position) || seen_[index_of(row.stage)]) continue;
      seen_[index_of(row.stage)] = true;
      row.stashes.claim(micro_batch, position);
      row.open.claim(micro_batch, position);
    }
  }

  void end_action(std::int32_t row) {
    RowState& state = row_at(row);
    state.busy = false;
    const Action& action = state.done.back();
    const std::int32_t micro_batch = action.micro_batch;
    if (action.op == Op::input_gradient)
      state.weights.push_back({Op::weight_gradient, action.chunk, micro_batch});
    if (action.op == Op::backward || action.op == Op::input_gradient) {
      --held(micro_batch, state.stage).open;
      state.open.release(progress_, micro_batch);
    }
    if (action.op == Op::backward || action.op == Op::weight_gradient) {
      --held(micro_batch, state.stage).stashes;
      state.stashes.release(progress_, micro_batch);
    }
    wake(row);
  }

  const Costs& costs_;
  const Flow& flow_;
  bool split_;
  std::size_t stages_;
  Progress progress_;
  std::vector<Held> held_;             // [micro_batch * stages + stage]
  std::vector<std::int32_t> message_;  // [micro_batch] number of its last one on the link
  std::vector<MinHeap<std::pair<std::int32_t, std::int32_t>>> ready_;  // [lane] age, micro-batch
  std::vector<LinkReserve> links_;
  std::vector<std::int32_t> claimed_by_;  // [link] the last micro-batch admitted to it
  std::vector<RowState> rows_;
  std::vector<bool> seen_;           // [stage] scratch of admit()
  std::vector<std::int32_t> woken_;  // free rows that may find something to do
  MinHeap<Event> events_;
  std::int64_t now_ = 0;
  std::int32_t next_age_ = 0;
};

/// A micro-batch alone keeps one stash a chunk until its last forward on the row is done.
std::int32_t least_cap(const Flow& flow) {
  std::int32_t least = 1;
  for (const std::int32_t chunks : flow.chunks_of_stage) least = std::max(least, chunks);
  return least;
}

}  // namespace

Result<std::vector<Row>> list_schedule(const Plan& plan, const Costs& costs,
                                       const ListOptions& options) {
  const Flow flow = make_flow(plan);
  const std::int32_t least = least_cap(flow);
  if (options.cap != 0 && options.cap < least)
    return fail(
        {.code = Code::does_not_fit,
         .what = fmt::format("no schedule keeps at most {} activations on every row", options.cap),
         .where = "list schedule",
         .why = fmt::format("a micro-batch alone keeps {} on a row with as many chunks", least),
         .fix = fmt::format("allow {} or more, or put fewer chunks on a stage", least)});
  // Windows keep regular pipelines in step. They cost time where shares are unequal: there rows do
  // better with all the memory they have.
  Execution steady(plan, costs, options.split, flow,
                   limits_of(plan, flow, costs, options, Pace::steady));
  steady.run();
  Execution eager(plan, costs, options.split, flow,
                  limits_of(plan, flow, costs, options, Pace::eager));
  eager.run();
  return std::move(eager.makespan() < steady.makespan() ? eager : steady).take_rows();
}

}  // namespace elaswave::pipeline
