// Layers and replicas onto stages when a stage has lost everybody. Internal to this folder.
#pragma once

#include <vector>

#include "elastic/plan/recovery_replicas.h"

namespace elaswave::plan {

/// Of layouts as fast as this multiple of the fastest, as a fraction, the one that moves least is
/// taken: a slow layout would cost every step until the next change, moves cost once.
inline constexpr std::int64_t kSlowestNumerator = 5, kSlowestDenominator = 4;

/// The layout that moves least state of those that fit and are fast enough (kSlowest); of equals
/// the fastest, then the one first looked at. Looked at are the previous layout (stages that lost
/// everybody get replicas of others) and, from many stages to one, layers cut anew into as many
/// stages as the wish, the layers and the replicas allow, with fewer chunks where layers do not
/// suffice. Replicas are dealt over stages as in a healthy plan; which goes where is decided
/// greedily: the replica and stage of which most is held in the right slice and not yet covered by
/// others first, ties to the lower replica and stage.
///
/// Speed: the slowest stage's work (its largest share of micro-batches) and the way of one
/// micro-batch through the others, spread over the chunks of a stage. Not the makespan of rows:
/// making those of every layout would take longer than the rest of a recovery.
///
/// Fills layout, stages and routes of `plan`; `survivors.others` are left over. Code::does_not_fit
/// when no layout fits.
Result<void> relayer(const layout::BlockTable& blocks, const RecoveryRequest& request,
                     const Holders& holders, Survivors& survivors, layout::Plan& plan);

}  // namespace elaswave::plan
