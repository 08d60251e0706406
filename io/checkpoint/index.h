// index.h5: the logical view of a checkpoint for h5py and friends, made from the manifest alone.
//   /model/<tensor>                 master weights, true shape and order (virtual datasets)
//   /optimizer/exp_avg/<tensor>     first moment
//   /optimizer/exp_avg_sq/<tensor>  second moment
//   /trainer                        attributes: step, updates, samples, tokens, loss
//   /config, /facts                 attributes: one a key; the root carries format, run, writer ...
// Derived: the trainer never loads through it, and `elaswave checkpoint reindex` makes it anew.
#pragma once

#include "io/checkpoint/manifest.h"

namespace elaswave::checkpoint {

/// The datasets of a shard file, one a kind: every piece of that kind, in order.
std::string shard_dataset(Kind kind);  // "/master", ...

/// The file's bytes, the same for equal manifests. Uses of `manifest`: everything but the entry of
/// index.h5 itself. REQUIRES: every run lies within its tensor (check_manifest()). ERRORS:
/// Code::corrupt when the pieces of a kind in a shard do not lie end to end.
Result<std::vector<std::byte>> make_index(const Manifest& manifest);

}  // namespace elaswave::checkpoint
