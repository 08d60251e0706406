// The table of the library itself: what can be called without a device.
#include "parallel/comm/nccl_table.h"

#include <gtest/gtest.h>

#include <cstring>

namespace elaswave::comm {
namespace {

TEST(NcclTable, holds_the_library_that_is_linked) {
  const auto table = real_nccl();
  ASSERT_TRUE(table) << table.error().text();
  int version = 0;
  EXPECT_EQ(table->get_version(&version), ncclSuccess);
  EXPECT_GE(version, NCCL_VERSION_CODE);
  EXPECT_STREQ(table->get_error_string(ncclSuccess), "no error");
  for (const bool filled :
       {!!table->get_last_error, !!table->get_unique_id, !!table->comm_init_rank_config,
        !!table->comm_get_async_error, !!table->comm_revoke, !!table->comm_abort,
        !!table->comm_finalize, !!table->comm_destroy, !!table->group_start, !!table->group_end,
        !!table->all_reduce, !!table->reduce_scatter, !!table->all_gather, !!table->send,
        !!table->recv})
    EXPECT_TRUE(filled);
}

TEST(NcclTable, refuses_null_communicators_without_a_device) {
  const auto table = real_nccl();
  ASSERT_TRUE(table) << table.error().text();
  ncclResult_t state = ncclSuccess;
  EXPECT_EQ(table->comm_get_async_error(nullptr, &state), ncclInvalidArgument);
}

}  // namespace
}  // namespace elaswave::comm
