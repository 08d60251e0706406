#include "app/rank_device_cuda.h"

#include "io/base/file.h"
#include "model/kernels/cuda_ops.h"
#include "model/kernels/gemm_cuda.h"
#include "model/spec/device_memory.h"
#include "parallel/device/cuda_arithmetic.h"

namespace elaswave::app {
namespace {

// The plan counts what is allocated there.
static_assert(spec::kProductWorkspaceBytes == kernels::cuda::Gemm::kWorkspaceBytes);
static_assert(spec::kProductSinkBytes == kernels::cuda::Gemm::kSinkBytes);

class CudaRank final : public RankDevice {
 public:
  static Result<std::unique_ptr<RankDevice>> make(const HostPart& host,
                                                  std::unique_ptr<device::CudaDevice> device,
                                                  MakeAttention attention,
                                                  std::string_view gemm_rows) {
    std::unique_ptr<CudaRank> made(new CudaRank(std::move(device), host.threads));
    kernels::CudaOpsOptions options;
    options.gemm_rows = gemm_rows;
    if (attention != nullptr) {
      EW_ASSIGN(options.attention, attention(*made->device_));
    }
    EW_ASSIGN(made->ops_, kernels::make_cuda_ops(*made->device_, std::move(options)));
    EW_ASSIGN(made->host_ops_, kernels::make_cpu_ops(host.isa));
    made->arithmetic_ = device::make_cuda_arithmetic(made->stream_);
    return made;
  }
  kernels::Machine machine() override {
    return {*ops_, stream_, *arithmetic_, *host_ops_, host_stream_};
  }

 private:
  CudaRank(std::unique_ptr<device::CudaDevice> device, int threads)
      : device_(std::move(device)), stream_(*device_), host_stream_(threads) {}

  std::unique_ptr<device::CudaDevice> device_;
  device::CudaStream stream_;
  device::CpuStream host_stream_;
  std::unique_ptr<device::Arithmetic> arithmetic_;
  std::unique_ptr<kernels::Ops> ops_, host_ops_;  // last: they hold scratch of the stream
};

}  // namespace

Result<std::string> read_gemm_table(const std::string& path) {
  EW_ASSIGN(const MappedFile file, MappedFile::open(path));
  const std::span<const std::byte> bytes = file.bytes();
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  // Any section: lines are checked in all of them.
  if (auto table = kernels::GemmTable::parse(text, 0, ""); !table) {
    Error error = table.error();
    error.where = fmt::format("{}, {}", path, error.where);
    return fail(std::move(error));
  }
  return text;
}

Result<int> gpu_of_rank(int gpu, int local_rank) {
  if (gpu >= 0) return gpu;
  EW_ASSIGN(const int count, device::cuda_device_count());
  return local_rank % count;
}

Result<std::unique_ptr<RankDevice>> make_cuda_rank(const HostPart& host, int gpu, int local_rank,
                                                   MakeAttention attention,
                                                   std::string_view gemm_rows) {
  EW_ASSIGN(const int index, gpu_of_rank(gpu, local_rank));
  EW_ASSIGN(std::unique_ptr<device::CudaDevice> device, device::make_cuda_device(index));
  try {
    return CudaRank::make(host, std::move(device), attention, gemm_rows);
  } catch (const device::DeviceLost& lost) {
    Error error = device_lost(lost);
    error.where = "at start";
    return fail(std::move(error));
  }
}

}  // namespace elaswave::app
