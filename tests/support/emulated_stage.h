// The emulated device: every action takes its modelled time and computes nothing.
#pragma once

#include "io/base/clock.h"
#include "parallel/pipeline/schedule.h"
#include "parallel/pipeline/stage_ops.h"

namespace elaswave::test {

class EmulatedStage final : public pipeline::StageOps {
 public:
  EmulatedStage(Clock& clock, const pipeline::Costs& costs) : clock_(clock), costs_(costs) {}
  Result<void> run(const pipeline::Task& task) override {
    clock_.sleep(pipeline::duration(costs_, task.action));
    return {};
  }

 private:
  Clock& clock_;
  const pipeline::Costs& costs_;
};

}  // namespace elaswave::test
