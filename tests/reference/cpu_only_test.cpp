// What only the CPU backend promises: floating-point modes, the text that names its bits, one
// instruction set a process (ELASWAVE_TEST_ISA), arguments checked to the last number.
#include <xmmintrin.h>

#include "model/kernels/cpu_ops.h"
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

class CpuOnlyDeathTest : public KernelTest {};

TEST_F(CpuOnlyDeathTest, refuses_targets_outside_the_vocabulary) {
  Head head({stream()}, {3, 4, 7});
  head.targets_values[1] = 7;
  head.targets.set(head.targets_values);
  EXPECT_DEATH(ops().head_loss(stream(), head.args()), "target 7 of a vocabulary of 7");
}

TEST_F(CpuOnlyDeathTest, refuses_what_is_no_chunk) {
  Head head({stream()}, {kLossChunkTokens + 1, 4, 7});
  Padded logits({stream()}, head.N, head.V);
  DeviceVector<LogitStats> stats(stream(), head.N, LogitStats{});
  EXPECT_DEATH(ops().head_logits(
                   stream(), {head.x.view(), head.w.view(), head.targets, 0, logits.mat(), stats}),
               "257 tokens in a chunk of at most 256");
}

}  // namespace
}  // namespace elaswave::kernels
