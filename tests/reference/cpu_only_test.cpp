// What only the CPU backend promises: floating-point modes, the text that names its bits, one
// instruction set a process (ELASWAVE_TEST_ISA), arguments checked to the last number.
#include <xmmintrin.h>

#include <bit>
#include <numeric>

#include "io/base/bf16.h"
#include "model/kernels/cpu_ops.h"
#include "model/kernels/simd_kernels.h"
#include "tests/reference/head_case.h"

namespace elaswave::kernels {
namespace {

class CpuOnlyTest : public KernelTest {};

// A library may leave a thread in another mode; every task puts it right before it computes.
TEST_F(CpuOnlyTest, denormals_survive_a_changed_float_mode) {
  constexpr unsigned kFlush = (1u << 15) | (1u << 6), kRoundUp = 2u << 13;
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | kFlush | kRoundUp);
  std::vector<float> x(20, 0x1p-140f), y = x, out(20);
  device::CpuStream stream(1);
  ops().residual_forward(stream, {device::mat(std::span<const float>(x), 1, 20),
                                  device::mat(std::span<const float>(y), 1, 20),
                                  1,
                                  {},
                                  device::mat(std::span<float>(out), 1, 20)});
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  EXPECT_EQ(after & (kFlush | kRoundUp), 0u);
  EXPECT_EQ(out, std::vector<float>(20, 0x1p-139f));
}

TEST_F(CpuOnlyTest, names_what_its_bits_depend_on) {
  const std::string text = ops().numeric_class();
  EXPECT_NE(text.find(ELASWAVE_TEST_ISA == Isa::avx2 ? "cpu/avx2/onednn-" : "cpu/avx512/onednn-"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find(gemm_library_version()), std::string::npos) << text;
}

// A process holds the library to one instruction set: the second is refused with the reason.
TEST_F(CpuOnlyTest, another_instruction_set_is_refused) {
  const auto other = make_cpu_ops(ELASWAVE_TEST_ISA == Isa::avx2 ? Isa::avx512 : Isa::avx2);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, Code::unavailable);
  EXPECT_FALSE(other.error().fix.empty());
}

// Every upper half of a float, with what lies between it and the next: ties, and next to them.
TEST_F(CpuOnlyTest, bf16_is_widened_exactly_and_rounded_to_even) {
  const ElementwiseKernels& kernels =
      ELASWAVE_TEST_ISA == Isa::avx2 ? elementwise_kernels_avx2() : elementwise_kernels_avx512();
  constexpr std::uint32_t kHalves = 1u << 16;
  std::vector<std::uint16_t> halves(kHalves), rounded(kHalves);
  std::vector<float> values(kHalves);
  for (const std::uint32_t rest : {0u, 1u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
    for (std::uint32_t half = 0; half < kHalves; ++half)
      values[half] = std::bit_cast<float>(half << 16 | rest);
    kernels.narrow(values.data(), rounded.data(), kHalves);
    for (std::uint32_t half = 0; half < kHalves; ++half)
      ASSERT_EQ(rounded[half], to_bf16(values[half]).bits) << half << " " << rest;
  }
  std::iota(halves.begin(), halves.end(), std::uint16_t{0});
  kernels.widen(halves.data(), values.data(), kHalves);
  for (std::uint32_t half = 0; half < kHalves; ++half)
    ASSERT_EQ(std::bit_cast<std::uint32_t>(values[half]), half << 16);
}

TEST_F(CpuOnlyTest, bf16_rows_of_every_length_keep_to_themselves) {
  const ElementwiseKernels& kernels =
      ELASWAVE_TEST_ISA == Isa::avx2 ? elementwise_kernels_avx2() : elementwise_kernels_avx512();
  for (std::int64_t n = 0; n <= 70; ++n) {
    std::vector<std::uint16_t> halves(80), back(80, 7);
    std::iota(halves.begin(), halves.end(), std::uint16_t{0x3F00});
    std::vector<float> values(80, 5.0f);
    kernels.widen(halves.data() + 1, values.data() + 1, n);
    kernels.narrow(values.data() + 1, back.data() + 1, n);
    for (std::int64_t i = 0; i < 80; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const bool mine = i >= 1 && i <= n;
      ASSERT_EQ(values[at], mine ? to_float({halves[at]}) : 5.0f) << n << " " << i;
      ASSERT_EQ(back[at], mine ? halves[at] : 7) << n << " " << i;
    }
  }
}

class CpuOnlyDeathTest : public KernelTest {};

TEST_F(CpuOnlyDeathTest, refuses_targets_outside_the_vocabulary) {
  Head head({stream()}, {3, 4, 7});
  head.targets_values[1] = 7;
  head.targets.set(head.targets_values);
  EXPECT_DEATH(ops().head_loss(stream(), head.args()), "target 7 of a vocabulary of 7");
}

TEST_F(CpuOnlyDeathTest, refuses_what_is_no_chunk) {
  Head head({stream()}, {3, 4, 7});
  Padded logits({stream()}, head.N, head.V);
  DeviceVector<LogitStats> stats(stream(), head.N + 1, LogitStats{});
  EXPECT_DEATH(ops().head_logits(
                   stream(), {head.x.view(), head.w.view(), head.targets, 0, logits.mat(), stats}),
               "3 targets and 4 statistics for 3 tokens");
  head.chunk_tokens = 0;
  EXPECT_DEATH(ops().head_loss(stream(), head.args()), "3 tokens, 0 at a time");
}

}  // namespace
}  // namespace elaswave::kernels
