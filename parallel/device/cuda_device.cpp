#include "parallel/device/cuda_device.h"

#include <cuda_runtime_api.h>

#include <array>
#include <cstring>
#include <utility>

#include "parallel/device/cuda_check.h"

namespace elaswave::device {
namespace {

// Kernels are compiled for 9.0: as machine code of sm_90a and as portable PTX.
constexpr int kOldestMajor = 9;

Error no_device(std::string what, std::string why, std::string fix) {
  return {.code = Code::unavailable,
          .what = std::move(what),
          .where = "",
          .why = std::move(why),
          .fix = std::move(fix)};
}

Error no_driver(cudaError_t status) {
  return no_device(fmt::format("no NVIDIA driver: {}", cudaGetErrorString(status)), "",
                   "install the driver, or run on the CPU");
}

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, which, index), "cudaDeviceGetAttribute");
  return value;
}

std::string describe(int index) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  return fmt::format("{}, {} SMs", properties.name, properties.multiProcessorCount);
}

Result<int> device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) return fail(no_driver(status));
  if (status == cudaErrorNoDevice)
    count = 0;
  else if (status != cudaSuccess)
    return fail(
        no_device("the NVIDIA driver does not answer",
                  failure_text(status, "cudaGetDeviceCount", std::source_location::current()),
                  "see what nvidia-smi says"));
  return count;
}

}  // namespace

Result<int> cuda_device_count() {
  EW_ASSIGN(const int count, device_count());
  if (count == 0)
    return fail(no_device("no GPU", "this process sees none",
                          "run on the CPU, or look at CUDA_VISIBLE_DEVICES"));
  return count;
}

Result<CudaIdentity> cuda_device_identity(int index) {
  cudaDeviceProp properties{};
  if (const cudaError_t status = cudaGetDeviceProperties(&properties, index); status != cudaSuccess)
    return fail(no_device(fmt::format("no GPU {}", index), cudaGetErrorString(status),
                          "choose another, or set CUDA_VISIBLE_DEVICES"));
  CudaIdentity identity{.total_bytes = static_cast<std::int64_t>(properties.totalGlobalMem)};
  for (const char byte : properties.uuid.bytes)
    identity.uuid += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return identity;
}

Result<std::unique_ptr<CudaDevice>> make_cuda_device(int index) {
  EW_ASSIGN(const int count, device_count());
  if (index < 0 || index >= count)
    return fail(no_device(fmt::format("no GPU {}", index),
                          fmt::format("this process sees {} GPUs", count),
                          "choose another, or set CUDA_VISIBLE_DEVICES"));
  try {
    const int major = attribute(cudaDevAttrComputeCapabilityMajor, index);
    const int minor = attribute(cudaDevAttrComputeCapabilityMinor, index);
    if (major < kOldestMajor)
      return fail(no_device(fmt::format("GPU {} is too old", index),
                            fmt::format("{} has compute capability {}.{}, kernels need {}.0",
                                        describe(index), major, minor, kOldestMajor),
                            "run on the CPU, or on a Hopper GPU or newer"));
    return std::make_unique<CudaDevice>(index, describe(index));
  } catch (const DeviceLost& lost) {
    return fail(Error{.code = Code::device_lost,
                      .what = fmt::format("GPU {} cannot be used", index),
                      .where = "",
                      .why = lost.what(),
                      .fix = "see what nvidia-smi says"});
  } catch (const OutOfMemory& full) {  // a context of its own needs some hundred MB
    return fail(Error{.code = Code::does_not_fit,
                      .what = fmt::format("no room on GPU {}", index),
                      .where = "",
                      .why = full.what(),
                      .fix = "end what else runs there (nvidia-smi)"});
  }
}

CudaDevice::CudaDevice(int index, std::string name)
    : index_(index), name_(std::move(name)), clear_(std::make_unique<CudaStream>(*this)) {}

CudaDevice::~CudaDevice() = default;

void CudaDevice::select() const {
  check_cuda(cudaSetDevice(index_), "cudaSetDevice");
}

CudaDevice::MemoryInfo CudaDevice::memory_info() const {
  select();
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return {.free_bytes = static_cast<std::int64_t>(free_bytes),
          .total_bytes = static_cast<std::int64_t>(total_bytes)};
}

std::string CudaDevice::bus_id() const {
  std::array<char, 24> text{};
  check_cuda(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), index_),
             "cudaDeviceGetPCIBusId");
  return text.data();
}

std::byte* CudaDevice::allocate(Space space, std::int64_t bytes) {
  EW_CHECK(bytes >= 0, "allocation of {} bytes", bytes);
  if (bytes == 0) return nullptr;
  select();
  return static_cast<std::byte*>(space == Space::device ? allocate_device(bytes)
                                                        : allocate_host(bytes));
}

void* CudaDevice::allocate_device(std::int64_t bytes) {
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, static_cast<std::size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());  // leave none for libraries that ask
    const MemoryInfo info = memory_info();
    throw OutOfMemory(fmt::format("{} has no room for {} bytes: {} of its {} bytes are free", name_,
                                  bytes, info.free_bytes, info.total_bytes));
  }
  check_cuda(status, "cudaMalloc");
  const auto give_back = [](void* at) { release_cuda(cudaFree(at), "cudaFree"); };
  std::unique_ptr<void, decltype(give_back)> owned(memory, give_back);
  // Complete on return, because whichever stream comes first may read it.
  const std::lock_guard lock(clearing_);
  clear_->zero(memory, bytes);
  clear_->synchronize();
  remember(memory, bytes, Space::device);
  return owned.release();
}

void CudaDevice::remember(const void* memory, std::int64_t bytes, Space space) {
  const std::lock_guard lock(known_);
  allocations_.emplace(static_cast<const std::byte*>(memory), Allocation{bytes, space});
}

std::optional<Space> CudaDevice::space_of(const void* memory) const {
  const auto* at = static_cast<const std::byte*>(memory);
  const std::lock_guard lock(known_);
  const auto next = allocations_.upper_bound(at);
  if (next == allocations_.begin()) return std::nullopt;
  const auto& [begin, allocation] = *std::prev(next);
  if (at >= begin + allocation.bytes) return std::nullopt;
  return allocation.space;
}

bool CudaDevice::hides(const void* memory) const {
  return space_of(memory) == Space::device;
}

void* CudaDevice::allocate_host(std::int64_t bytes) {
  void* memory = nullptr;
  const cudaError_t status = cudaHostAlloc(&memory, static_cast<std::size_t>(bytes),
                                           cudaHostAllocPortable | cudaHostAllocMapped);
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    throw OutOfMemory(
        fmt::format("the host has no room for {} bytes of page-locked memory", bytes));
  }
  check_cuda(status, "cudaHostAlloc");
  std::memset(memory, 0, static_cast<std::size_t>(bytes));
  remember(memory, bytes, Space::host);
  return memory;
}

void CudaDevice::free(Space space, std::byte* memory) noexcept {
  if (memory == nullptr) return;
  {
    const std::lock_guard lock(known_);
    allocations_.erase(memory);
  }
  if (space == Space::device)
    release_cuda(cudaFree(memory), "cudaFree");
  else
    release_cuda(cudaFreeHost(memory), "cudaFreeHost");
}

}  // namespace elaswave::device
