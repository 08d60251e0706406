// The functions of the CUDA runtime that the product calls, as CUDA's documentation has them
// (CUDA Runtime API, "API synchronization behavior" for what a copy waits for).
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <mutex>

#include "tests/support/cuda/machine.h"

namespace {

using elaswave::emulator::Machine;
using elaswave::emulator::Place;

template <typename Body>
cudaError_t call(Body body) {
  Machine& machine = Machine::get();
  const std::lock_guard lock(machine.mutex());
  const cudaError_t status = machine.begin_call();
  return machine.end_call(status != cudaSuccess ? status : body(machine));
}

template <typename Run>
void enqueue(cudaStream_t stream, Run run) {
  Machine::get().enqueue(stream, std::move(run));
}

// Memory that one side of a copy names.
enum class Side { device, pinned, pageable, wrong };

Side side_of(Machine& machine, const void* at, std::size_t bytes) {
  if (const auto* allocation = machine.memory().find(at, bytes))
    return allocation->place == Place::device ? Side::device : Side::pinned;
  return machine.memory().owns(at) ? Side::wrong : Side::pageable;
}

void check_alive(const void* at, std::size_t bytes) {
  if (side_of(Machine::get(), at, bytes) == Side::wrong)
    elaswave::emulator::emulator_error("a copy or clearing of memory that has been freed");
}

cudaError_t copy(Machine& machine, void* to, const void* from, std::size_t bytes,
                 cudaStream_t stream) {
  const Side target = side_of(machine, to, bytes);
  const Side source = side_of(machine, from, bytes);
  if (target == Side::wrong || source == Side::wrong) return cudaErrorInvalidValue;
  enqueue(stream, [=] {
    check_alive(to, bytes);
    check_alive(from, bytes);
    std::memmove(to, from, bytes);
  });
  // Between any two places of the host: complete when the call returns. Between the device and
  // pageable memory it "might be"; here it never is.
  if (target != Side::device && source != Side::device)
    machine.run_until([=] { return stream->queue.empty(); });
  return cudaSuccess;
}

cudaError_t find_devices(Machine& machine, int* count) {
  *count = machine.options().driver ? machine.options().devices : 0;
  if (!machine.options().driver) return cudaErrorInsufficientDriver;
  return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
}

bool has_device(Machine& machine, int index) {
  return machine.options().driver && index >= 0 && index < machine.options().devices;
}

}  // namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  return call([&](Machine& machine) { return find_devices(machine, count); });
}

cudaError_t cudaSetDevice(int device) {
  return call([&](Machine& machine) {
    return has_device(machine, device) ? cudaSuccess : cudaErrorInvalidDevice;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return call([&](Machine& machine) {
    if (!has_device(machine, device)) return cudaErrorInvalidDevice;
    *properties = {};
    std::snprintf(properties->name, sizeof properties->name, "emulated GPU");
    properties->major = machine.options().compute_major;
    properties->minor = machine.options().compute_minor;
    properties->multiProcessorCount = 132;
    properties->totalGlobalMem = machine.options().device_bytes;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return call([&](Machine& machine) {
    if (!has_device(machine, device)) return cudaErrorInvalidDevice;
    if (attribute == cudaDevAttrComputeCapabilityMajor)
      *value = machine.options().compute_major;
    else if (attribute == cudaDevAttrComputeCapabilityMinor)
      *value = machine.options().compute_minor;
    else if (attribute == cudaDevAttrMultiProcessorCount)
      *value = 132;
    else
      return cudaErrorInvalidValue;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
  return call([&](Machine& machine) {
    if (!has_device(machine, device)) return cudaErrorInvalidDevice;
    std::snprintf(text, static_cast<std::size_t>(size), "0000:%02x:00.0", device + 1);
    return cudaSuccess;
  });
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  return call([&](Machine& machine) {
    *total_bytes = machine.options().device_bytes;
    *free_bytes = *total_bytes - machine.memory().used_bytes();
    return cudaSuccess;
  });
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  return call([&](Machine& machine) {
    const std::size_t room = machine.options().device_bytes - machine.memory().used_bytes();
    if (machine.take_full() || bytes > room) return cudaErrorMemoryAllocation;
    *memory = machine.memory().allocate(Place::device, bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  return call([&](Machine& machine) {
    if (machine.refuses()) return cudaErrorMemoryAllocation;
    *memory = machine.memory().allocate(Place::pinned, bytes);
    return cudaSuccess;
  });
}

// Memory is given back although the context is poisoned, so that leaks can be told from losses.
cudaError_t cudaFree(void* memory) {
  Machine& machine = Machine::get();
  const std::lock_guard lock(machine.mutex());
  const bool known = memory == nullptr || machine.memory().release(Place::device, memory);
  return call([=](Machine&) { return known ? cudaSuccess : cudaErrorInvalidValue; });
}

cudaError_t cudaFreeHost(void* memory) {
  Machine& machine = Machine::get();
  const std::lock_guard lock(machine.mutex());
  const bool known = memory == nullptr || machine.memory().release(Place::pinned, memory);
  return call([=](Machine&) { return known ? cudaSuccess : cudaErrorInvalidValue; });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return call([&](Machine& machine) {
    if (kind != cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
    if (!machine.knows(stream)) return cudaErrorInvalidResourceHandle;
    return copy(machine, to, from, bytes, stream);
  });
}

cudaError_t cudaMemsetAsync(void* at, int value, std::size_t bytes, cudaStream_t stream) {
  return call([&](Machine& machine) {
    if (!machine.knows(stream)) return cudaErrorInvalidResourceHandle;
    if (machine.memory().find(at, bytes) == nullptr) return cudaErrorInvalidValue;
    enqueue(stream, [=] {
      check_alive(at, bytes);
      std::memset(at, value, bytes);
    });
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return call([&](Machine& machine) {
    *stream = machine.add_stream();
    return cudaSuccess;
  });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Machine& machine = Machine::get();
  const std::lock_guard lock(machine.mutex());
  const bool known = machine.remove_stream(stream);
  return call([=](Machine&) { return known ? cudaSuccess : cudaErrorInvalidResourceHandle; });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return call([&](Machine& machine) {
    if (!machine.knows(stream)) return cudaErrorInvalidResourceHandle;
    machine.enqueue_wait(stream, event->state);
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call([&](Machine& machine) {
    *event = new CUevent_st{std::make_shared<EmulatedEvent>()};
    (*event)->state->timed = (flags & cudaEventDisableTiming) == 0;
    machine.add_event();
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Machine& machine = Machine::get();
  const std::lock_guard lock(machine.mutex());
  delete event;
  machine.remove_event();
  return call([](Machine&) { return cudaSuccess; });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call([&](Machine& machine) {
    if (!machine.knows(stream)) return cudaErrorInvalidResourceHandle;
    const std::uint64_t record = ++event->state->recorded;
    enqueue(stream, [state = event->state, record, stream] {
      state->passed = std::max(state->passed, record);
      state->time = stream->time;
    });
    return cudaSuccess;
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  return call([&](Machine&) {
    for (const EmulatedEvent* event : {begin->state.get(), end->state.get()}) {
      if (!event->timed || event->recorded == 0) return cudaErrorInvalidResourceHandle;
      if (!event->complete()) return cudaErrorNotReady;
    }
    *milliseconds =
        static_cast<float>(static_cast<double>(end->state->time - begin->state->time) / 1e6);
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return call([&](Machine& machine) {
    if (!event->state->complete()) machine.run_some();
    return event->state->complete() ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call([&](Machine& machine) {
    machine.run_until([&] { return event->state->complete(); });
    return cudaSuccess;
  });
}

cudaError_t cudaGetLastError() {
  Machine& machine = Machine::get();
  const std::lock_guard lock(machine.mutex());
  return machine.take_last_error();
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    default:
      return "an error of CUDA";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    default:
      return "emulated failure";
  }
}

}  // extern "C"
