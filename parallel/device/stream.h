// Where kernels are issued. On the CPU a stream is a thread pool and every kernel has finished when
// its call returns; on a GPU calls enqueue. Callers that follow the stream contract work on both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "io/base/clock.h"
#include "parallel/device/device.h"
#include "parallel/device/thread_pool.h"

namespace elaswave::device {

/// A place in the work of a stream. Marks of one stream are reached in the order they were made.
enum class Mark : std::uint64_t {};

/// When a stream came by, at places marked in its work. THREADS: those of the stream, which must
/// outlive it.
class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  /// Forgets all stamps.
  virtual void clear() = 0;
  /// Marks everything issued so far. Stamps are numbered from 0 after clear(). Allocates nothing
  /// once there were as many before.
  virtual void stamp() = 0;
  /// From the passing of stamp 0 to that of `stamp`. REQUIRES: the stream was synchronised after
  /// the stamp. Throws DeviceLost.
  virtual Nanoseconds at(std::size_t stamp) = 0;
};

/// For streams whose calls have finished when they return: reads `clock`, which must outlive it.
std::unique_ptr<Stopwatch> host_stopwatch(const Clock& clock);

/// THREADS: one at a time.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual Device& device() = 0;

  /// Returns when everything issued on this stream has finished. Throws DeviceLost.
  virtual void synchronize() = 0;

  /// Copies in order with the kernels of this stream, between any two of host memory and the
  /// device's. Host memory that is not of Space::host may be reused or read when the call returns;
  /// other memory when the stream has passed the copy.
  virtual void copy(void* to, const void* from, std::int64_t bytes) = 0;
  virtual void zero(void* at, std::int64_t bytes) = 0;

  /// Everything issued so far.
  virtual Mark mark() = 0;
  /// Has the stream passed the mark? Does not wait.
  virtual bool reached(Mark mark) = 0;
  /// What is issued here from now on comes after `mark` of `other`, a stream of the same device.
  virtual void follow(Stream& other, Mark mark) = 0;

  /// Another stream of the device, for work beside this one's: follow() alone orders the two.
  virtual std::unique_ptr<Stream> beside() = 0;
  /// The device's own time; that of `clock` where calls have finished when they return.
  virtual std::unique_ptr<Stopwatch> stopwatch(const Clock& clock) = 0;
};

class CpuStream final : public Stream {
 public:
  explicit CpuStream(int threads) : pool_(threads) {}
  Device& device() override { return host_device(); }
  void synchronize() override {}
  void copy(void* to, const void* from, std::int64_t bytes) override;
  void zero(void* at, std::int64_t bytes) override;
  Mark mark() override { return {}; }
  bool reached(Mark) override { return true; }
  void follow(Stream&, Mark) override {}
  std::unique_ptr<Stream> beside() override { return std::make_unique<CpuStream>(1); }
  std::unique_ptr<Stopwatch> stopwatch(const Clock& clock) override {
    return host_stopwatch(clock);
  }
  ThreadPool& pool() { return pool_; }

 private:
  ThreadPool pool_;
};

}  // namespace elaswave::device
