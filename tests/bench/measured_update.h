// What follows the micro-batches in a step, measured on state of a whole model cut into its blocks,
// as on a rank that owns all of it.
#pragma once

#include "model/spec/inventory.h"
#include "parallel/device/arithmetic.h"
#include "tests/bench/measured_ops.h"

namespace elaswave::bench {

/// Mean gradients, their squares, AdamW; beside them what not every step does: weights stored anew,
/// digests, sums of another rank added. Allocates some 40 bytes a parameter for as long as it runs.
void measure_update(MeasuredOps& ops, device::CudaStream& stream, device::Arithmetic& arithmetic,
                    const spec::Inventory& inventory);
/// Does every step of a single rank do it?
bool in_every_step(const Measurement& update);

}  // namespace elaswave::bench
