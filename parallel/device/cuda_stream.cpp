#include <cuda_runtime_api.h>

#include "parallel/device/cuda_check.h"
#include "parallel/device/cuda_device.h"
#include "parallel/device/cuda_staging.h"

namespace elaswave::device {
namespace {

cudaEvent_t make_event(unsigned flags) {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, flags), "cudaEventCreateWithFlags");
  return event;
}

void destroy_event(cudaEvent_t event) noexcept {
  if (event != nullptr) release_cuda(cudaEventDestroy(event), "cudaEventDestroy");
}

// Marks are recorded often: without a time, that is cheap.
constexpr unsigned kMark = cudaEventDisableTiming;

class CudaStopwatch final : public Stopwatch {
 public:
  explicit CudaStopwatch(CudaStream& stream) : stream_(stream) {}
  ~CudaStopwatch() override {
    for (cudaEvent_t event : events_) destroy_event(event);
  }
  CudaStopwatch(const CudaStopwatch&) = delete;
  CudaStopwatch& operator=(const CudaStopwatch&) = delete;

  void clear() override { stamped_ = 0; }
  void stamp() override {
    stream_.device().select();
    if (stamped_ == events_.size()) events_.push_back(make_event(cudaEventDefault));
    check_cuda(cudaEventRecord(events_[stamped_], stream_.handle()), "cudaEventRecord");
    ++stamped_;
  }
  Nanoseconds at(std::size_t stamp) override {
    EW_CHECK(stamp < stamped_, "stamp {} of {}", stamp, stamped_);
    if (stamp == 0) return 0;
    float milliseconds = 0;  // exact to 1 us after 16 s
    check_cuda(cudaEventElapsedTime(&milliseconds, events_.front(), events_[stamp]),
               "cudaEventElapsedTime");
    return static_cast<Nanoseconds>(static_cast<double>(milliseconds) * kMillisecond);
  }

 private:
  CudaStream& stream_;
  std::vector<cudaEvent_t> events_;  // those from stamped_ on wait to be used again
  std::size_t stamped_ = 0;
};

}  // namespace

CudaStream::CudaStream(CudaDevice& device) : device_(&device) {
  device_->select();
  idle_ = make_event(cudaEventBlockingSync | cudaEventDisableTiming);
  const cudaError_t status = cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking);
  if (status != cudaSuccess) destroy_event(idle_);
  check_cuda(status, "cudaStreamCreateWithFlags");
}

CudaStream::~CudaStream() {
  staging_.reset();  // waits
  for (cudaEvent_t event : pending_) destroy_event(event);
  for (cudaEvent_t event : spare_) destroy_event(event);
  destroy_event(idle_);
  release_cuda(cudaStreamDestroy(handle_), "cudaStreamDestroy");
}

void CudaStream::synchronize() {
  device_->select();
  check_cuda(cudaEventRecord(idle_, handle_), "cudaEventRecord");
  // Not cudaStreamSynchronize(), which spins unless the whole context is told not to.
  check_cuda(cudaEventSynchronize(idle_), "cudaEventSynchronize");
}

void CudaStream::copy(void* to, const void* from, std::int64_t bytes) {
  EW_CHECK(bytes >= 0, "copy of {} bytes", bytes);
  if (bytes == 0) return;
  if (device_->owns(from)) {
    device_->select();
    check_cuda(
        cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, handle_),
        "cudaMemcpyAsync");
  } else {
    if (staging_ == nullptr) staging_ = std::make_unique<CudaStaging>(*device_);
    staging_->send(handle_, to, from, bytes);
  }
  // Memory that is not page-locked: whether the copy waits for itself is up to the driver.
  if (!device_->owns(to)) synchronize();
}

void CudaStream::zero(void* at, std::int64_t bytes) {
  EW_CHECK(bytes >= 0, "{} bytes to clear", bytes);
  if (bytes == 0) return;
  device_->select();
  check_cuda(cudaMemsetAsync(at, 0, static_cast<std::size_t>(bytes), handle_), "cudaMemsetAsync");
}

// Moves the oldest pending mark to the passed ones if the stream has passed it.
bool CudaStream::retire_oldest() {
  const cudaError_t status = cudaEventQuery(pending_.front());
  if (status == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());  // kept like an error, for libraries that ask to find
    return false;
  }
  check_cuda(status, "cudaEventQuery");
  spare_.push_back(pending_.front());
  pending_.pop_front();
  ++passed_;
  return true;
}

cudaEvent_t CudaStream::take_event() {
  if (spare_.empty() && !pending_.empty()) retire_oldest();
  if (spare_.empty()) return make_event(kMark);
  const cudaEvent_t event = spare_.back();
  spare_.pop_back();
  return event;
}

Mark CudaStream::mark() {
  device_->select();
  const cudaEvent_t event = take_event();
  pending_.push_back(event);
  check_cuda(cudaEventRecord(event, handle_), "cudaEventRecord");
  return Mark{passed_ + pending_.size()};
}

bool CudaStream::reached(Mark mark) {
  const auto number = static_cast<std::uint64_t>(mark);
  EW_CHECK(number <= passed_ + pending_.size(), "mark {} of {}", number, passed_ + pending_.size());
  while (passed_ < number)
    if (!retire_oldest()) return false;
  return true;
}

void CudaStream::follow(Stream& other, Mark mark) {
  auto* stream = dynamic_cast<CudaStream*>(&other);
  EW_CHECK(stream != nullptr && stream->device_ == device_, "a stream follows one of {}",
           other.device().name());
  const auto number = static_cast<std::uint64_t>(mark);
  EW_CHECK(number <= stream->passed_ + stream->pending_.size(), "mark {} of {}", number,
           stream->passed_ + stream->pending_.size());
  if (number <= stream->passed_) return;
  device_->select();
  check_cuda(cudaStreamWaitEvent(handle_, stream->pending_[number - stream->passed_ - 1], 0),
             "cudaStreamWaitEvent");
}

std::unique_ptr<Stopwatch> CudaStream::stopwatch(const Clock&) {
  return std::make_unique<CudaStopwatch>(*this);
}

}  // namespace elaswave::device
