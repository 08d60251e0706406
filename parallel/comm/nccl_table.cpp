#include "parallel/comm/nccl_table.h"

namespace elaswave::comm {
namespace {

// NCCL_VERSION() of nccl.h from 2.9 on.
constexpr int major_of(int version) {
  return version / 10'000;
}
std::string version_text(int version) {
  return fmt::format("{}.{}.{}", major_of(version), version / 100 % 100, version % 100);
}

}  // namespace

Result<NcclTable> real_nccl() {
  int version = 0;
  const ncclResult_t asked = ncclGetVersion(&version);
  if (asked != ncclSuccess || version < NCCL_VERSION_CODE ||
      major_of(version) != major_of(NCCL_VERSION_CODE))
    return fail(
        {.code = Code::unavailable,
         .what = "the NCCL library found does not fit this program",
         .where = "start",
         .why = asked == ncclSuccess
                    ? fmt::format("it is version {}, built for {} or a newer one of the "
                                  "same major number",
                                  version_text(version), version_text(NCCL_VERSION_CODE))
                    : fmt::format("it does not tell its version: {}", ncclGetErrorString(asked)),
         .fix = "put a newer libnccl.so.2 first in the library path"});
  return NcclTable{.get_version = ncclGetVersion,
                   .get_error_string = ncclGetErrorString,
                   .get_last_error = ncclGetLastError,
                   .get_unique_id = ncclGetUniqueId,
                   .comm_init_rank_config = ncclCommInitRankConfig,
                   .comm_get_async_error = ncclCommGetAsyncError,
                   .comm_revoke = ncclCommRevoke,
                   .comm_abort = ncclCommAbort,
                   .comm_finalize = ncclCommFinalize,
                   .comm_destroy = ncclCommDestroy,
                   .group_start = ncclGroupStart,
                   .group_end = ncclGroupEnd,
                   .all_reduce = ncclAllReduce,
                   .reduce_scatter = ncclReduceScatter,
                   .all_gather = ncclAllGather,
                   .send = ncclSend,
                   .recv = ncclRecv};
}

}  // namespace elaswave::comm
