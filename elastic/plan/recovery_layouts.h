// Layers and replicas onto stages when a stage has lost everybody. Internal to this folder.
#pragma once

#include <vector>

#include "elastic/plan/recovery_replicas.h"

namespace elaswave::plan {

/// Of layouts as fast as this multiple of the fastest, as a fraction, the one that moves least is
/// taken: a slow layout would cost every step until the next change, moves cost once.
inline constexpr std::int64_t kSlowestNumerator = 5, kSlowestDenominator = 4;

/// A layout with replicas in its stages: layout, stages, routes and spares are set.
struct Candidate {
  layout::Plan plan;
  std::int64_t moved = 0;     // elements that nobody in their home stage has
  std::int64_t makespan = 0;  // rough, see below
};

/// Looked at are the previous layout (stages that lost everybody get replicas of others) and, from
/// many stages to one, layers cut anew into as many stages as the wish, the layers and the replicas
/// allow, with fewer chunks where layers do not suffice. Replicas are dealt over stages as in a
/// healthy plan; which goes where is decided greedily: the replica and stage of which most is held
/// in the right slice and not yet covered by others first, ties to the lower replica and stage.
///
/// Speed: the slowest stage's work (its largest share of micro-batches) and the way of one
/// micro-batch through the others, spread over the chunks of a stage. Not the makespan of rows:
/// making those of every layout would take longer than the rest of a recovery. REQUIRES: members
/// enough for a replica.
std::vector<Candidate> find_layouts(const layout::BlockTable& blocks,
                                    const RecoveryRequest& request, const Holders& holders,
                                    Survivors survivors);

/// Takes out the layout that moves least state of those that are fast enough (kSlowest); of equals
/// the fastest, then the one first looked at. REQUIRES: there is one.
layout::Plan take_best(std::vector<Candidate>& candidates);

}  // namespace elaswave::plan
