// Which attention cuDNN is asked for at all; needs neither a GPU nor a driver.
#include "model/kernels/attention_cudnn.h"

#include <gtest/gtest.h>

namespace elaswave::kernels {
namespace {

Mat mat(std::int64_t rows, std::int64_t cols, std::int64_t stride) {
  return {.dtype = DType::bf16, .rows = rows, .cols = cols, .stride = stride};
}

AttentionBackward attention(std::int64_t heads, std::int64_t head_dim) {
  const std::int64_t rows = 2 * 32, cols = heads * head_dim;
  return {.qkv_N3C = mat(rows, 3 * cols, 3 * cols),
          .out_NC = mat(rows, cols, cols),
          .dout_NC = mat(rows, cols, cols),
          .T = 32,
          .H = heads,
          .dqkv_N3C = mat(rows, 3 * cols, 3 * cols)};
}

AttentionForward forward_of(const AttentionBackward& args) {
  return {.qkv_N3C = args.qkv_N3C,
          .T = args.T,
          .H = args.H,
          .dropout = args.dropout,
          .out_NC = mat(args.out_NC.rows, args.out_NC.cols, args.out_NC.stride)};
}

bool both(const AttentionBackward& args) {
  const bool backward = CudnnAttention::supported(args);
  EXPECT_EQ(CudnnAttention::supported(forward_of(args)), backward);
  return backward;
}

TEST(CudnnAttention, takes_bf16_with_head_dimensions_that_are_multiples_of_8) {
  for (const std::int64_t head_dim : {8, 64, 72, 80, 96, 128, 256})
    EXPECT_TRUE(both(attention(3, head_dim))) << head_dim;
  for (const std::int64_t head_dim : {4, 12, 63, 264, 512})
    EXPECT_FALSE(both(attention(2, head_dim))) << head_dim;
}

TEST(CudnnAttention, leaves_the_rest_to_others) {
  const AttentionBackward good = attention(2, 64);
  AttentionBackward args = good;
  args.qkv_N3C.dtype = DType::f32;
  EXPECT_FALSE(both(args));
  args = good;
  args.dropout.rate = 0.1f;
  EXPECT_FALSE(both(args));
  args = good;
  args.T = 48;  // no whole number of samples
  EXPECT_FALSE(both(args));
  args = good;
  args.out_NC.stride += 4;  // every second row would begin between two vectors
  EXPECT_FALSE(both(args));
  args = good;
  args.out_NC.stride += 8;
  EXPECT_TRUE(both(args));
  args = good;
  args.dqkv_N3C.stride += 4;  // concerns backward alone
  EXPECT_FALSE(CudnnAttention::supported(args));
  args = good;
  args.dout_NC.dtype = DType::f32;
  EXPECT_FALSE(CudnnAttention::supported(args));
}

}  // namespace
}  // namespace elaswave::kernels
