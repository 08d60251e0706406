// Where each rank of a run lives and what it fails together with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "elastic/plan/backups.h"
#include "elastic/plan/budget.h"
#include "parallel/comm/group.h"

namespace elaswave::app {

struct RankPlace {
  std::int64_t pid = 0;
  std::string host, domain;
  std::int64_t host_bytes = 0;  // memory of the host; 0: not known
  std::int64_t own_bytes = 0;   // of it for this rank, where set by hand
  std::string gpu;              // which in all the world; empty: none
  std::int64_t gpu_bytes = 0, own_gpu_bytes = 0;
};

/// elastic.domain for one rank. In it, {rank}, {rank/N}, {rank%N} and {host} are replaced, N a
/// positive integer: "{rank/4}" makes pretended nodes of four ranks each on one host. Empty: the
/// host. ERRORS: Code::usage for other braces, and for names of more than 63 bytes.
Result<std::string> domain_name(const std::string& pattern, std::int64_t world_rank,
                                const std::string& host);

/// Of this process. `own_bytes` as in RankPlace. ERRORS: of domain_name().
Result<RankPlace> own_place(const std::string& domain_pattern, std::int64_t world_rank,
                            std::int64_t own_bytes);

/// COLLECTIVE over `group`: by member.
Result<std::vector<RankPlace>> exchange_places(comm::World& world, const comm::Group& group,
                                               const RankPlace& mine, Nanoseconds timeout);

/// Numbers for the names, in order of first appearance.
plan::Domains domain_numbers(const std::vector<RankPlace>& places);
/// What each rank may use of memory; hosts and GPUs are numbered likewise.
plan::RankLimits rank_limits(const std::vector<RankPlace>& places);

}  // namespace elaswave::app
