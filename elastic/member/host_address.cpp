#include "elastic/member/host_address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "io/base/file.h"
#include "io/base/hash.h"

namespace elaswave::member {
namespace {

/// The IPv4 address of the first interface, by name, that `fits`.
template <typename Fits>
std::optional<std::uint32_t> interface_address(Fits fits) {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return std::nullopt;
  std::vector<std::pair<std::string, std::uint32_t>> found;
  for (const ifaddrs* one = list; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET) continue;
    const auto* address = reinterpret_cast<const sockaddr_in*>(one->ifa_addr);
    const std::uint32_t ipv4 = ntohl(address->sin_addr.s_addr);
    if ((one->ifa_flags & IFF_UP) != 0 && fits(std::string(one->ifa_name), ipv4, one->ifa_flags))
      found.emplace_back(one->ifa_name, ipv4);
  }
  ::freeifaddrs(list);
  if (found.empty()) return std::nullopt;
  return std::min_element(found.begin(), found.end())->second;
}

/// The address that this host shows on its default route; connecting a UDP socket sends nothing.
std::optional<std::uint32_t> default_route_address() {
  const Descriptor descriptor(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!descriptor) return std::nullopt;
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(9);
  to.sin_addr.s_addr = htonl(0xC0000201);  // 192.0.2.1, reserved for documentation (RFC 5737)
  sockaddr_in mine{};
  socklen_t length = sizeof mine;
  if (::connect(descriptor.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0 ||
      ::getsockname(descriptor.get(), reinterpret_cast<sockaddr*>(&mine), &length) != 0)
    return std::nullopt;
  return ntohl(mine.sin_addr.s_addr);
}

Error no_address(const std::string& what, const std::string& why) {
  return {
      .code = Code::usage,
      .what = "the agent has no address to listen on",
      .where = what,
      .why = why,
      .fix = "name an interface of this host (or its IPv4 address) in ELASWAVE_AGENT_INTERFACE"};
}

}  // namespace

std::uint64_t host_key() {
  std::array<char, 256> name{};
  (void)::gethostname(name.data(), name.size() - 1);
  std::array<std::byte, 64> boot{};
  auto file = File::open("/proc/sys/kernel/random/boot_id");
  if (file) (void)file->read_some(boot);
  return hash_bytes(boot, hash_text(name.data()));
}

Result<ListenPlace> find_listen_place(const std::string& wanted, bool one_host) {
  if (!wanted.empty()) {
    in_addr literal{};
    const bool is_address = ::inet_pton(AF_INET, wanted.c_str(), &literal) == 1;
    const auto named =
        interface_address([&](const std::string& name, std::uint32_t ipv4, unsigned) {
          return is_address ? ipv4 == ntohl(literal.s_addr) : name == wanted;
        });
    if (!named) return fail(no_address(wanted, "no such interface is up with an IPv4 address"));
    return ListenPlace{
        .listen_ipv4 = *named, .shown_ipv4 = *named, .loopback = *named == kLoopbackIpv4};
  }
  // Nobody outside needs to reach a run on one host.
  if (one_host)
    return ListenPlace{.listen_ipv4 = kLoopbackIpv4, .shown_ipv4 = kLoopbackIpv4, .loopback = true};
  auto shown = default_route_address();
  if (!shown)
    shown = interface_address([](const std::string&, std::uint32_t, unsigned flags) {
      return (flags & IFF_LOOPBACK) == 0;
    });
  if (!shown) return fail(no_address("this host", "it has no IPv4 address but the loopback one"));
  return ListenPlace{.listen_ipv4 = INADDR_ANY, .shown_ipv4 = *shown, .loopback = true};
}

}  // namespace elaswave::member
