#include "parallel/comm/device_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace elaswave::comm {
namespace {

using ::testing::HasSubstr;

constexpr std::int32_t kVersion = 22809;

TransportChoice choose(const std::vector<DevicePlace>& places) {
  return choose_transport(places);
}

TEST(DeviceTransport, a_device_for_each_rank_takes_nccl) {
  std::vector<DevicePlace> places;
  for (std::uint64_t host = 1; host <= 3; ++host)
    for (const char* bus : {"0000:3b:00.0", "0000:3c:00.0", "0000:3c:00.1"})
      places.push_back(device_place(host, bus, kVersion));  // bus ids repeat on other hosts
  EXPECT_EQ(choose(places).transport, DeviceTransport::nccl);
  EXPECT_EQ(choose({places[0]}).transport, DeviceTransport::nccl);
}

TEST(DeviceTransport, ranks_that_share_a_device_pass_through_the_host) {
  const DevicePlace one = device_place(7, "0000:3b:00.0", kVersion);
  const DevicePlace other = device_place(7, "0000:3c:00.0", kVersion);
  const TransportChoice choice = choose({other, one, one});
  EXPECT_EQ(choice.transport, DeviceTransport::staged);
  EXPECT_THAT(choice.why, HasSubstr("numbers 1 and 2 of 3 ranks share the device 0000:3b:00.0"));
}

TEST(DeviceTransport, a_rank_without_nccl_or_with_another_takes_all_through_the_host) {
  const DevicePlace with = device_place(1, "0000:3b:00.0", kVersion);
  const TransportChoice lacking = choose({with, device_place(2, "0000:3b:00.0", 0)});
  EXPECT_EQ(lacking.transport, DeviceTransport::staged);
  EXPECT_THAT(lacking.why, HasSubstr("number 1 of 2 ranks is built without NCCL"));
  const TransportChoice mixed = choose({with, device_place(2, "0000:3b:00.0", kVersion + 1)});
  EXPECT_EQ(mixed.transport, DeviceTransport::staged);
  EXPECT_THAT(mixed.why, HasSubstr("version 22809 at number 0 and 22810 at number 1"));
}

}  // namespace
}  // namespace elaswave::comm
