#include "tests/property/recovery_testing.h"

namespace elaswave::test {

using layout::Plan;
using plan::Move;
using plan::RecoveryPlan;
using plan::Response;

std::vector<std::int32_t> RecoveryOracle::home(const Plan& plan, std::int64_t block) const {
  std::vector<std::int32_t> ranks;
  const std::int32_t slice = blocks_.part(blocks_.block(block).part).slice;
  const std::int32_t stage = plan.stage_of_layer(blocks_.block(block).layer);
  for (const layout::Replica& replica : plan.stages[static_cast<std::size_t>(stage)].replicas)
    for (std::int32_t at = 0; at < plan.tensor_degree; ++at)
      if (slice < 0 || slice == at)
        ranks.push_back(replica.world_ranks[static_cast<std::size_t>(at)]);
  return ranks;
}

std::string RecoveryOracle::judge(const RecoveryPlan& made) const {
  for (const auto part : {&RecoveryOracle::judge_plan, &RecoveryOracle::judge_kept_stages,
                          &RecoveryOracle::judge_owners, &RecoveryOracle::judge_backups,
                          &RecoveryOracle::judge_routes})
    if (std::string fault = (this->*part)(made); !fault.empty()) return fault;
  return {};
}

std::string RecoveryOracle::judge_plan(const RecoveryPlan& made) const {
  const Plan& plan = made.plan;
  if (std::string fault = layout::find_fault(plan, blocks_, *members_.rbegin() + 1); !fault.empty())
    return fault;
  const pipeline::ScheduleFault fault = pipeline::check_schedule(plan, 0);
  if (!fault.what.empty()) return pipeline::fault_text(plan, fault);
  if (!std::ranges::equal(layout::members(plan), members_)) return "not the members of the view";
  if (!std::is_sorted(plan.spares.begin(), plan.spares.end())) return "spares are not sorted";
  if (std::ssize(plan.spares) >= plan.tensor_degree && !limited())
    return "spares could be a replica";
  if (plan.generation != request_.generation || plan.id != request_.id)
    return "another generation or id";
  if (plan.tensor_degree != request_.wish.tensor || plan.copies != request_.wish.copies ||
      plan.micro_batches != request_.wish.micro_batches)
    return "not what was wished for";
  return {};
}

std::string RecoveryOracle::judge_kept_stages(const RecoveryPlan& made) const {
  if (keeps_stages() != (made.response == Response::keep) && !(limited() && keeps_stages()))
    return "the wrong response";
  const Plan &plan = made.plan, &previous = request_.previous;
  if (made.response == Response::relayer) {
    if (std::ssize(plan.stages) >
        std::max<std::ptrdiff_t>(request_.wish.pipeline, std::ssize(previous.stages)))
      return "more stages than wished for";
    return {};
  }
  if (plan.chunk_of_layer != previous.chunk_of_layer ||
      plan.stage_of_chunk != previous.stage_of_chunk)
    return "layers moved without need";
  for (std::size_t stage = 0; stage < previous.stages.size(); ++stage)
    for (const layout::Replica& replica : previous.stages[stage].replicas) {
      const auto& now = plan.stages[stage].replicas;
      if (survives(replica) && std::find(now.begin(), now.end(), replica) == now.end())
        return fmt::format("stage {} lost a replica without need", stage);
    }
  return {};
}

std::string RecoveryOracle::judge_owners(const RecoveryPlan& made) const {
  const Plan &plan = made.plan, &previous = request_.previous;
  auto move = made.moves.begin();
  for (std::int64_t block = 0; block < blocks_.count(); ++block) {
    const std::int32_t owner = plan.owner_rank(blocks_, block);
    const std::vector<std::int32_t> home_ranks = home(plan, block);
    if (std::find(home_ranks.begin(), home_ranks.end(), owner) == home_ranks.end())
      return fmt::format("block {} is owned by rank {}, not at home", block, owner);
    const std::int32_t before = previous.owner_rank(blocks_, block);
    const bool could_stay = holds(before, block) && std::find(home_ranks.begin(), home_ranks.end(),
                                                              before) != home_ranks.end();
    if (told_ == Told::everything && could_stay && owner != before)
      return fmt::format("block {} went from {} to {} without need", block, before, owner);
    if (holds(owner, block)) continue;
    const bool promotable = std::any_of(home_ranks.begin(), home_ranks.end(),
                                        [&](std::int32_t rank) { return holds(rank, block); });
    if (promotable && made.response == Response::keep)
      return fmt::format("block {} is moved though a member at home has it", block);
    if (move == made.moves.end() || move->block != block || move->to != owner ||
        !holds(move->from, block))
      return fmt::format("block {} is not moved to its owner {} from a holder", block, owner);
    ++move;
  }
  return move == made.moves.end() ? "" : "a move without need, or out of order";
}

std::string RecoveryOracle::judge_backups(const RecoveryPlan& made) const {
  const Plan& plan = made.plan;
  const auto wanted = static_cast<std::size_t>(plan.copies) + 1;
  std::vector<Move> missing;
  for (std::int64_t block = 0; block < blocks_.count(); ++block) {
    std::set<std::int32_t> ranks = {plan.owner_rank(blocks_, block)}, kept_in;
    for (const std::int32_t rank : plan.backups_of(block)) {
      if (rank < 0) continue;
      ranks.insert(rank);
      if (!holds(rank, block)) missing.push_back({.block = block, .to = rank});
    }
    for (const std::int32_t rank : ranks) kept_in.insert(domain(rank));
    if (ranks.size() != std::min(wanted, members_.size()))
      return fmt::format("block {} has {} ranks", block, ranks.size());
    if (kept_in.size() != std::min(wanted, domains()))
      return fmt::format("block {} is kept in {} domains of {}", block, kept_in.size(), domains());
  }
  std::sort(missing.begin(), missing.end(), [](const Move& a, const Move& b) {
    return std::pair(a.block, a.to) < std::pair(b.block, b.to);
  });
  if (missing.size() != made.refills.size())
    return fmt::format("{} refills for {} copies", made.refills.size(), missing.size());
  for (std::size_t index = 0; index < missing.size(); ++index) {
    const Move& refill = made.refills[index];
    if (refill.block != missing[index].block || refill.to != missing[index].to)
      return fmt::format("refill {} is not the copy that is missing", index);
    if (!holds(refill.from, refill.block))
      return fmt::format("refill {} is from rank {} that has nothing", index, refill.from);
  }
  return {};
}

std::string RecoveryOracle::judge_routes(const RecoveryPlan& made) const {
  const Plan &plan = made.plan, &previous = request_.previous;
  bool equal = true;
  for (const layout::Stage& stage : plan.stages)
    equal = equal && stage.replicas.size() == plan.stages[0].replicas.size();
  for (std::int32_t stage = 0; stage < std::ssize(plan.stages); ++stage) {
    const std::int32_t replicas = plan.replicas(stage);
    std::vector<std::int64_t> shares(static_cast<std::size_t>(replicas), 0), had(shares);
    std::int64_t stayed = 0;
    for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch) {
      const std::int32_t now = plan.replica_for(micro_batch, stage);
      ++shares[static_cast<std::size_t>(now)];
      if (equal && now != plan.replica_for(micro_batch, 0)) return "no columns";
      if (made.response != Response::keep) continue;
      const layout::Replica& before =
          previous.replica(stage, previous.replica_for(micro_batch, stage));
      for (std::int32_t replica = 0; replica < replicas; ++replica)
        if (plan.replica(stage, replica) == before) ++had[static_cast<std::size_t>(replica)];
      stayed += plan.replica(stage, now) == before;
    }
    const auto [least, most] = std::minmax_element(shares.begin(), shares.end());
    if (*most - *least > 1) return fmt::format("shares of stage {}: {}..{}", stage, *least, *most);
    // As few changes as even shares allow; columns may need more, but not in the first stage.
    const std::int64_t share = plan.micro_batches / replicas;
    std::int64_t could = 0, larger = plan.micro_batches % replicas;
    for (const std::int64_t count : had) {
      could += std::min(count, share);
      if (count > share && larger > 0) ++could, --larger;
    }
    if (told_ == Told::everything && (!equal || stage == 0) && stayed != could)
      return fmt::format("{} of {} micro-batches of stage {} stayed", stayed, could, stage);
  }
  return {};
}

History::History(layout::BlockTable blocks, plan::HealthyRequest wish, Plan first, Told told)
    : blocks_(std::move(blocks)),
      wish_(std::move(wish)),
      told_(told),
      plan_(std::move(first)),
      members_(layout::members(plan_)),
      holds_(static_cast<std::size_t>(wish_.world_size)) {
  refill();
}

void History::move(std::int64_t count) {
  for (const Move& move : std::span(moves_).first(static_cast<std::size_t>(count)))
    holds_[static_cast<std::size_t>(move.to)][static_cast<std::size_t>(move.block)] = true;
}

void History::refill() {
  for (std::vector<bool>& holds : holds_)
    holds.assign(static_cast<std::size_t>(blocks_.count()), false);
  for (std::int64_t block = 0; block < blocks_.count(); ++block) {
    const auto at = static_cast<std::size_t>(block);
    holds_[static_cast<std::size_t>(plan_.owner_rank(blocks_, block))][at] = true;
    for (const std::int32_t rank : plan_.backups_of(block))
      if (rank >= 0) holds_[static_cast<std::size_t>(rank)][at] = true;
  }
}

History::Answer History::change(const std::vector<std::int32_t>& gone,
                                const std::vector<std::int32_t>& come) {
  for (const std::int32_t rank : gone) {
    std::erase(members_, rank);
    holds_[static_cast<std::size_t>(rank)].assign(static_cast<std::size_t>(blocks_.count()), false);
  }
  members_.insert(members_.end(), come.begin(), come.end());
  std::sort(members_.begin(), members_.end());
  plan::RecoveryRequest request{.previous = plan_,
                                .wish = wish_,
                                .generation = Generation{raw(plan_.generation) + 1},
                                .id = plan_.id + 1,
                                .shortage = shortage_};
  request.holdings.members = members_;
  for (const std::int32_t rank : members_)
    request.holdings.holds.push_back(holds_[static_cast<std::size_t>(rank)]);
  const plan::RecoveryRequest everything = request;
  const RecoveryOracle oracle(blocks_, everything, told_);
  if (told_ == Told::layout) {
    Plan& previous = request.previous;
    previous.route.clear();
    previous.schedule.clear();
    previous.owner.clear();
    previous.backup.clear();
    previous.copies = 0;
  }
  auto made = plan::recover_plan(blocks_, request);
  Answer answer;
  if (!oracle.enough_ranks() || oracle.lost() > 0) {
    answer.outcome = oracle.enough_ranks() ? Outcome::lost : Outcome::too_few;
    if (made || made.error().code != Code::unrecoverable)
      answer.fault = "it should have been refused";
    else
      answer.text = made.error().text();
    return answer;
  }
  if (answer.fault = judge_memory(request, made); !made) {
    if (oracle.limited())
      answer.outcome = Outcome::too_large;
    else
      answer.fault = made.error().text();
    answer.text = made.error().text();
    return answer;
  }
  if (answer.fault.empty()) answer.fault = oracle.judge(*made);
  std::reverse(request.holdings.members.begin(), request.holdings.members.end());
  std::reverse(request.holdings.holds.begin(), request.holdings.holds.end());
  const auto again = plan::recover_plan(blocks_, request);
  if (!again || again->plan != made->plan || again->moves != made->moves ||
      again->refills != made->refills || again->schedule != made->schedule)
    answer.fault = "another answer to the same question";
  answer.response = made->response;
  answer.moved = std::ssize(made->moves);
  moves_ = std::move(made->moves);
  plan_ = std::move(made->plan);
  return answer;
}

std::string History::judge_memory(plan::RecoveryRequest request,
                                  const Result<RecoveryPlan>& made) const {
  if (!shortage_) return {};
  request.shortage = nullptr;
  const RecoveryPlan best = plan::recover_plan(blocks_, request).value();
  const bool best_fits = !shortage_(best.plan);
  if (!made) {
    if (made.error().code != Code::unrecoverable ||
        made.error().what.find("no layout") == std::string::npos)
      return "another error: " + made.error().text();
    return best_fits ? "it could have gone on: " + made.error().text() : "";
  }
  if (shortage_(made->plan)) return "a plan that does not fit";
  return best_fits && made->plan != best.plan ? "another plan though the best one fits" : "";
}

std::int64_t History::lost_with(std::int32_t gone) const {
  for (std::int64_t block = 0; block < blocks_.count(); ++block)
    if (std::none_of(members_.begin(), members_.end(), [&](std::int32_t rank) {
          return domain(rank) != gone &&
                 holds_[static_cast<std::size_t>(rank)][static_cast<std::size_t>(block)];
        }))
      return block;
  return -1;
}

std::vector<std::int32_t> History::ranks_of(std::int32_t of) const {
  std::vector<std::int32_t> ranks;
  for (const std::int32_t rank : members_)
    if (domain(rank) == of) ranks.push_back(rank);
  return ranks;
}

std::size_t History::domains() const {
  std::set<std::int32_t> all;
  for (const std::int32_t rank : members_) all.insert(domain(rank));
  return all.size();
}

}  // namespace elaswave::test
