// Where kernels are issued. On the CPU a stream is a thread pool and every kernel has finished when
// its call returns; on a GPU calls enqueue. Callers that follow the stream contract work on both.
#pragma once

#include "parallel/device/thread_pool.h"

namespace elaswave::device {

class Stream {
 public:
  virtual ~Stream() = default;
  /// Returns when everything issued on this stream has finished.
  virtual void synchronize() = 0;
};

class CpuStream final : public Stream {
 public:
  explicit CpuStream(int threads) : pool_(threads) {}
  void synchronize() override {}
  ThreadPool& pool() { return pool_; }

 private:
  ThreadPool pool_;
};

}  // namespace elaswave::device
