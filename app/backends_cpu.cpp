#include "app/backends.h"

namespace elaswave::app {

std::string backends_text() {
  return "cpu";
}

Result<std::unique_ptr<RankDevice>> make_rank_device(const std::string& kind, const HostPart& host,
                                                     int, int, const std::string&) {
  if (kind == "cpu") return make_cpu_rank(host);
  return fail({.code = Code::unavailable,
               .what = "this build has no CUDA backend",
               .where = "device.kind",
               .why = "the CUDA toolkit was not found, or not wanted, when it was made",
               .fix = "build with -DELASWAVE_CUDA=ON, or use --device.kind=cpu"});
}

GpuMemory gpu_memory(const std::string&, int, int) {
  return {};
}

Result<void> tune_products(const TuneRequest&, TuneFile&) {
  return fail({.code = Code::unavailable,
               .what = "there is nothing to tune",
               .where = "",
               .why = "this build has the CPU backend alone, whose products are cut by shape",
               .fix = "build with -DELASWAVE_CUDA=ON to tune those of a GPU"});
}

}  // namespace elaswave::app
