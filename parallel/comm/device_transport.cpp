#include "parallel/comm/device_transport.h"

#include <algorithm>
#include <map>
#include <utility>

#include "io/base/error.h"

namespace elaswave::comm {

DevicePlace device_place(std::uint64_t host, std::string_view bus_id, std::int32_t nccl_version) {
  DevicePlace place{.host = host, .nccl_version = nccl_version};
  EW_CHECK(bus_id.size() < place.bus_id.size(), "a bus id of {} characters", bus_id.size());
  std::copy(bus_id.begin(), bus_id.end(), place.bus_id.begin());
  return place;
}

TransportChoice choose_transport(std::span<const DevicePlace> places) {
  EW_CHECK(!places.empty(), "a transport between no ranks");
  std::map<std::pair<std::uint64_t, std::string_view>, std::size_t> holders;
  for (std::size_t i = 0; i < places.size(); ++i) {
    const DevicePlace& place = places[i];
    if (place.nccl_version == 0)
      return {.why = fmt::format("number {} of {} ranks is built without NCCL", i, places.size())};
    if (place.nccl_version != places[0].nccl_version)
      return {.why =
                  fmt::format("NCCL is of version {} at number 0 and {} at number {} of {} ranks",
                              places[0].nccl_version, place.nccl_version, i, places.size())};
    const auto [holder, first] = holders.try_emplace({place.host, place.bus()}, i);
    if (!first)
      return {.why = fmt::format("numbers {} and {} of {} ranks share the device {}",
                                 holder->second, i, places.size(), place.bus())};
  }
  return {.transport = DeviceTransport::nccl, .why = "every rank has a device and NCCL of its own"};
}

}  // namespace elaswave::comm
