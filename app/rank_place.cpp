#include "app/rank_place.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>

#include "app/memory.h"

namespace elaswave::app {
namespace {

constexpr std::size_t kNameBytes = 64;  // with the zero at the end

/// On the wire.
struct PlaceWords {
  std::int64_t pid = 0, host_bytes = 0, own_bytes = 0, gpu_bytes = 0, own_gpu_bytes = 0;
  std::array<char, kNameBytes> host{}, domain{}, gpu{};
};
static_assert(sizeof(PlaceWords) == 40 + 3 * kNameBytes, "no padding: it would travel");

void put(const std::string& text, std::array<char, kNameBytes>& name) {
  std::memcpy(name.data(), text.data(), std::min(text.size(), name.size() - 1));
}

/// What stands between braces; nothing when it means nothing.
std::optional<std::string> meaning(std::string_view inside, std::int64_t world_rank,
                                   const std::string& host) {
  if (inside == "rank") return fmt::format("{}", world_rank);
  if (inside == "host") return host;
  constexpr std::string_view kRank = "rank";
  if (!inside.starts_with(kRank)) return std::nullopt;
  const char sign = inside[kRank.size()];
  const std::string_view digits = inside.substr(kRank.size() + 1);
  std::int64_t number = 0;
  const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (problem != std::errc() || end != digits.data() + digits.size() || number < 1)
    return std::nullopt;
  if (sign == '/') return fmt::format("{}", world_rank / number);
  if (sign == '%') return fmt::format("{}", world_rank % number);
  return std::nullopt;
}

std::vector<std::int32_t> numbers_of(const std::vector<RankPlace>& places,
                                     std::string RankPlace::*name) {
  std::vector<std::string> names;
  std::vector<std::int32_t> numbers;
  for (const RankPlace& place : places) {
    auto found = std::find(names.begin(), names.end(), place.*name);
    if (found == names.end()) found = names.insert(names.end(), place.*name);
    numbers.push_back(static_cast<std::int32_t>(found - names.begin()));
  }
  return numbers;
}

Error bad_domain(const std::string& pattern, std::string why) {
  return {.code = Code::usage,
          .what = "elastic.domain is no name",
          .where = fmt::format("elastic.domain={}", pattern),
          .why = std::move(why),
          .fix = "a name of at most 63 bytes; {rank}, {rank/4}, {rank%4} and {host} are replaced"};
}

}  // namespace

Result<std::string> domain_name(const std::string& pattern, std::int64_t world_rank,
                                const std::string& host) {
  std::string name;
  std::string_view rest = pattern.empty() ? std::string_view("{host}") : pattern;
  for (std::size_t open = rest.find('{'); open != rest.npos; open = rest.find('{')) {
    name += rest.substr(0, open);
    const std::size_t close = rest.find('}', open);
    if (close == rest.npos) return fail(bad_domain(pattern, "a { without its }"));
    const std::string_view inside = rest.substr(open + 1, close - open - 1);
    const auto text = meaning(inside, world_rank, host);
    if (!text) return fail(bad_domain(pattern, fmt::format("{{{}}} means nothing", inside)));
    name += *text;
    rest.remove_prefix(close + 1);
  }
  name += rest;
  if (name.size() >= kNameBytes)
    return fail(bad_domain(pattern, fmt::format("\"{}\" has {} bytes", name, name.size())));
  return name;
}

Result<RankPlace> own_place(const std::string& domain_pattern, std::int64_t world_rank,
                            std::int64_t own_bytes) {
  std::array<char, kNameBytes> host{};
  // A longer name is cut; the zero at the end stays.
  if (::gethostname(host.data(), host.size() - 1) != 0) host = {"unknown"};
  EW_ASSIGN(std::string domain, domain_name(domain_pattern, world_rank, host.data()));
  return RankPlace{.pid = ::getpid(),
                   .host = host.data(),
                   .domain = std::move(domain),
                   .host_bytes = static_cast<std::int64_t>(host_memory()),
                   .own_bytes = own_bytes};
}

Result<std::vector<RankPlace>> exchange_places(comm::World& world, const comm::Group& group,
                                               const RankPlace& mine, Nanoseconds timeout) {
  PlaceWords words{.pid = mine.pid,
                   .host_bytes = mine.host_bytes,
                   .own_bytes = mine.own_bytes,
                   .gpu_bytes = mine.gpu_bytes,
                   .own_gpu_bytes = mine.own_gpu_bytes};
  put(mine.host, words.host);
  put(mine.domain, words.domain);
  put(mine.gpu, words.gpu);
  std::vector<PlaceWords> all(static_cast<std::size_t>(group.size()));
  EW_TRY(comm::all_gather(world, group, std::as_bytes(std::span(&words, 1)),
                          std::as_writable_bytes(std::span(all)), "places of ranks",
                          Deadline::after(world.clock(), timeout)));
  std::vector<RankPlace> places;
  places.reserve(all.size());
  for (const PlaceWords& one : all)
    places.push_back({.pid = one.pid,
                      .host = one.host.data(),
                      .domain = one.domain.data(),
                      .host_bytes = one.host_bytes,
                      .own_bytes = one.own_bytes,
                      .gpu = one.gpu.data(),
                      .gpu_bytes = one.gpu_bytes,
                      .own_gpu_bytes = one.own_gpu_bytes});
  return places;
}

plan::Domains domain_numbers(const std::vector<RankPlace>& places) {
  return numbers_of(places, &RankPlace::domain);
}

plan::RankLimits rank_limits(const std::vector<RankPlace>& places) {
  const std::vector<std::int32_t> hosts = numbers_of(places, &RankPlace::host);
  const std::vector<std::int32_t> gpus = numbers_of(places, &RankPlace::gpu);
  plan::RankLimits limits(places.size());
  for (std::size_t rank = 0; rank < places.size(); ++rank)
    limits[rank] = {.host = hosts[rank],
                    .host_bytes = places[rank].host_bytes,
                    .own_bytes = places[rank].own_bytes,
                    .gpu = gpus[rank],
                    .gpu_bytes = places[rank].gpu_bytes,
                    .own_gpu_bytes = places[rank].own_gpu_bytes};
  return limits;
}

}  // namespace elaswave::app
