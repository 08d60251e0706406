// A rank's CPU behind glass: the device of a rank whose memory host code cannot touch, for whole
// training runs.
#pragma once

#include <memory>

#include "model/kernels/cpu_ops.h"
#include "tests/support/blind_device.h"

namespace elaswave::testing {

/// THREADS: one at a time.
class BlindMachine {
 public:
  static Result<std::unique_ptr<BlindMachine>> make(kernels::Isa isa, int threads);

  kernels::Machine machine() { return {*ops_, stream_, *arithmetic_, *host_ops_, host_stream_}; }

 private:
  explicit BlindMachine(int threads) : stream_(device_, threads), host_stream_(threads) {}

  BlindDevice device_;
  BlindStream stream_;
  device::CpuStream host_stream_;
  std::unique_ptr<device::Arithmetic> arithmetic_;
  std::unique_ptr<kernels::Ops> ops_, host_ops_;
};

}  // namespace elaswave::testing
