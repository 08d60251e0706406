// Where this host can be reached by the agents of others. IPv4. Internal to elastic/member.
#pragma once

#include <cstdint>
#include <string>

#include "io/base/error.h"

namespace elaswave::member {

inline constexpr std::uint32_t kLoopbackIpv4 = 0x7F000001;  // 127.0.0.1, host order

/// Equal on ranks that reach one another at 127.0.0.1: one kernel, and one name, which containers
/// have their own of.
std::uint64_t host_key();

struct ListenPlace {
  std::uint32_t listen_ipv4 = 0;  // 0: all interfaces
  std::uint32_t shown_ipv4 = 0;   // told to the others
  bool loopback = true;           // also reachable at 127.0.0.1 from its own host
};

/// `wanted`: name or IPv4 address of an interface of this host; empty: the loopback interface when
/// the run is on `one_host`, otherwise all, shown by the address of the default route.
Result<ListenPlace> find_listen_place(const std::string& wanted, bool one_host);

}  // namespace elaswave::member
