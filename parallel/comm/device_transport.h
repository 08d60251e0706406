// By which way device memory travels between ranks. Pure: ranks that know the same places choose
// alike without talking.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace elaswave::comm {

/// Where a rank's device is. Plain bytes, for an all-gather of the live ranks.
struct DevicePlace {
  std::uint64_t host = 0;         // the same for all ranks of a machine, for no others
  std::array<char, 24> bus_id{};  // as the driver writes it, "0000:3b:00.0"; ends with a zero
  std::int32_t nccl_version = 0;  // of the library in use; 0: this build has none
  std::int32_t zero = 0;

  std::string_view bus() const { return bus_id.data(); }
};
static_assert(sizeof(DevicePlace) == 40);

/// REQUIRES: `bus_id` has at most 23 characters.
DevicePlace device_place(std::uint64_t host, std::string_view bus_id, std::int32_t nccl_version);

enum class DeviceTransport : std::uint8_t {
  staged,  // through page-locked host memory: StagedWorld
  nccl     // from device to device: DeviceGroups
};

struct TransportChoice {
  DeviceTransport transport = DeviceTransport::staged;
  std::string why;  // for people, one clause
};

/// For all groups among ranks at `places` (world rank order, not empty). Staged when two of them
/// share a device (NCCL 2.28 refuses two ranks with one host and bus id: "Duplicate GPU detected"),
/// when one has no NCCL, or when the versions differ: NCCL promises nothing across versions.
TransportChoice choose_transport(std::span<const DevicePlace> places);

}  // namespace elaswave::comm
