#include "app/backends.h"
#include "app/rank_device_cuda.h"

namespace elaswave::app {

std::string backends_text() {
  return "cpu, cuda";
}

Result<std::unique_ptr<RankDevice>> make_rank_device(const std::string& kind, const HostPart& host,
                                                     int gpu, int local_rank) {
  if (kind == "cpu") return make_cpu_rank(host);
  return make_cuda_rank(host, gpu, local_rank, &kernels::cuda::make_cudnn_attention);
}

GpuMemory gpu_memory(const std::string& kind, int gpu, int local_rank) {
  if (kind != "cuda") return {};
  const Result<int> index = gpu_of_rank(gpu, local_rank);
  if (!index) return {};
  const auto identity = device::cuda_device_identity(*index);
  return identity ? GpuMemory{identity->uuid, identity->total_bytes} : GpuMemory{};
}

}  // namespace elaswave::app
