// The NCCL calls this project makes, as a table: code above it is the same over the library and
// over a fake that plants failures. Only files of CUDA builds include this header.
#pragma once

#include <nccl.h>

#include <functional>

#include "io/base/error.h"

namespace elaswave::comm {

/// Each entry has the signature and the contract that nccl.h gives the call of its name. Functions
/// rather than plain pointers, so that a fake carries its state without global variables.
/// THREADS: those of the calls.
struct NcclTable {
  std::function<decltype(ncclGetVersion)> get_version;
  std::function<decltype(ncclGetErrorString)> get_error_string;
  std::function<decltype(ncclGetLastError)> get_last_error;

  std::function<decltype(ncclGetUniqueId)> get_unique_id;
  std::function<decltype(ncclCommInitRankConfig)> comm_init_rank_config;
  std::function<decltype(ncclCommGetAsyncError)> comm_get_async_error;
  std::function<decltype(ncclCommRevoke)> comm_revoke;
  std::function<decltype(ncclCommAbort)> comm_abort;
  std::function<decltype(ncclCommFinalize)> comm_finalize;
  std::function<decltype(ncclCommDestroy)> comm_destroy;

  std::function<decltype(ncclGroupStart)> group_start;
  std::function<decltype(ncclGroupEnd)> group_end;
  std::function<decltype(ncclAllReduce)> all_reduce;
  std::function<decltype(ncclReduceScatter)> reduce_scatter;
  std::function<decltype(ncclAllGather)> all_gather;
  std::function<decltype(ncclSend)> send;
  std::function<decltype(ncclRecv)> recv;
};

/// The library this program is linked with. Code::unavailable when it is of another major version
/// than the header or older than it: revoking, on which recovery stands, came with 2.28.7.
Result<NcclTable> real_nccl();

}  // namespace elaswave::comm
