#include "app/backends.h"
#include "app/rank_device_cuda.h"
#include "app/tune_cuda.h"

namespace elaswave::app {

std::string backends_text() {
  return "cpu, cuda";
}

Result<std::unique_ptr<RankDevice>> make_rank_device(const std::string& kind, const HostPart& host,
                                                     int gpu, int local_rank,
                                                     const std::string& gemm_table) {
  if (kind == "cpu") return make_cpu_rank(host);
  std::string rows(kernels::tuned_gemm_rows());
  if (!gemm_table.empty()) {
    EW_ASSIGN(rows, read_gemm_table(gemm_table));
  }
  return make_cuda_rank(host, gpu, local_rank, &kernels::cuda::make_cudnn_attention, rows);
}

Result<void> tune_products(const TuneRequest& request, TuneFile& file) {
  return tune_cuda(request, file);
}

GpuMemory gpu_memory(const std::string& kind, int gpu, int local_rank) {
  if (kind != "cuda") return {};
  const Result<int> index = gpu_of_rank(gpu, local_rank);
  if (!index) return {};
  const auto identity = device::cuda_device_identity(*index);
  return identity ? GpuMemory{identity->uuid, identity->total_bytes} : GpuMemory{};
}

}  // namespace elaswave::app
