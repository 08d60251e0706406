// What kernel tests know of the backend under test. Each test binary links one definition of
// make_backend (backend_cpu.cpp, backend_blind.cpp, backend_cuda.cpp); test bodies are the same
// object code in all of them and reach device memory through tests/support/device_memory.h alone.
#pragma once

#include <memory>
#include <string>

#include "io/base/error.h"
#include "model/kernels/ops.h"
#include "parallel/device/device.h"
#include "parallel/device/stream.h"

namespace elaswave::testing {

/// THREADS: one at a time. Streams and memory go before the backend does.
class Backend {
 public:
  virtual ~Backend() = default;
  /// For people: "cpu/avx2".
  virtual std::string name() const = 0;
  virtual kernels::Ops& ops() = 0;
  virtual device::Device& device() = 0;

  /// A stream of one of stream_kinds() kinds, between which no bit of a result may differ: the
  /// CPU's thread counts. Kind 0 is what tests use that ask for none. A backend may keep it longer
  /// than the test does.
  virtual std::shared_ptr<device::Stream> make_stream(int kind) = 0;
  virtual int stream_kinds() const { return 1; }

  /// Are bits the same whatever the distance between rows? No contract of ops.h says so: vector and
  /// scalar loads may add in different orders.
  virtual bool strides_keep_bits() const { return false; }

  /// Are biases rounded to the storage type before they are added?
  virtual bool rounds_biases() const { return false; }
};

/// Code::unavailable where the machine or the build has no such backend: tests skip with its text.
Result<std::unique_ptr<Backend>> make_backend();

}  // namespace elaswave::testing
