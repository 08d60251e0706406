// The emulator itself: right kernels give right results, wrong ones are noticed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <set>
#include <vector>

#include "io/base/bf16.h"
#include "parallel/device/buffer.h"
#include "parallel/device/cuda_device.h"
#include "tests/support/cuda/emulator.h"
#include "tests/support/cuda/samples.h"

namespace elaswave::emulator {
namespace {

using device::Buffer;
using device::CudaDevice;
using device::CudaStream;
using device::Mark;
using device::Space;

constexpr unsigned kBlocks = 7;
constexpr std::int64_t kCount = kBlocks * 256;

class CudaEmulatorTest : public ::testing::Test {
 protected:
  void SetUp() override { start(1); }
  void TearDown() override {
    stream_.reset();
    device_.reset();
    EXPECT_EQ(live_allocations() + live_handles(), 0u);
    reset();
  }
  void start(std::uint64_t seed) {
    stream_.reset();
    device_.reset();
    reset({.seed = seed});
    device_ = device::make_cuda_device(0).value();
    stream_ = std::make_unique<CudaStream>(*device_);
  }

  template <typename T>
  Buffer upload(const std::vector<T>& values) {
    const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(T));
    Buffer memory(*device_, bytes);
    stream_->copy(memory.data(), values.data(), bytes);
    return memory;
  }
  template <typename T>
  std::vector<T> download(const Buffer& memory) {
    std::vector<T> values(static_cast<std::size_t>(memory.size_bytes()) / sizeof(T));
    stream_->copy(values.data(), memory.data(), memory.size_bytes());
    return values;
  }
  static float* floats(Buffer& memory) { return memory.as<float>().data(); }

  std::unique_ptr<CudaDevice> device_;
  std::unique_ptr<CudaStream> stream_;
};
using CudaEmulatorDeathTest = CudaEmulatorTest;

std::vector<float> some_values(std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<float>((i * 7919) % 1009) - 500.0f;
  return values;
}

TEST_F(CudaEmulatorTest, BlocksReduceBySharedMemoryAndByShuffles) {
  const std::vector<float> values = some_values(kCount);
  std::vector<float> right(kBlocks);  // sums of integers: exact in any order
  for (std::size_t i = 0; i < values.size(); ++i) right[i / 256] += values[i];
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    start(seed);
    Buffer x = upload(values);
    Buffer sums(*device_, kBlocks * 4);
    for (const auto sum :
         {samples::sum_by_shared, samples::sum_by_shuffles, samples::sum_by_dynamic}) {
      stream_->zero(sums.data(), sums.size_bytes());
      sum(*stream_, floats(x), floats(sums), kBlocks);
      EXPECT_EQ(download<float>(sums), right) << "seed " << seed;
    }
  }
}

TEST_F(CudaEmulatorTest, ExitedThreadsHoldNobodyUpAndDoNotVote) {
  std::vector<float> values(64, 1.0f);
  values[3] = values[33] = -1.0f;
  Buffer x = upload(values);
  Buffer votes(*device_, 8);
  samples::positive(*stream_, floats(x), votes.as<unsigned>().data(), 64);
  EXPECT_THAT(download<unsigned>(votes), testing::ElementsAre(0xFFFFFFF7u, 0xFFFFFFFDu));
  samples::positive(*stream_, floats(x), votes.as<unsigned>().data(), 40);
  EXPECT_THAT(download<unsigned>(votes), testing::ElementsAre(0xFFFFFFF7u, 0xFDu));
}

TEST_F(CudaEmulatorTest, NumbersBlocksInThreeDimensions) {
  Buffer numbers(*device_, 12 * 4);
  samples::number_blocks(*stream_, numbers.as<unsigned>().data());
  EXPECT_THAT(download<unsigned>(numbers),
              testing::ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
}

TEST_F(CudaEmulatorTest, RoundsAsTheDeviceDoes) {
  const std::vector<float> values = {1.0f, 1.00390625f, 1.01171875f, -3.1415926f, 1e-40f, 3e38f};
  Buffer x = upload(values);
  Buffer y(*device_, 12);
  samples::to_bf16(*stream_, floats(x), y.as<std::uint16_t>().data(), 6);
  std::vector<std::uint16_t> right;
  for (const float value : values) right.push_back(to_bf16(value).bits);
  EXPECT_EQ(download<std::uint16_t>(y), right);
}

TEST_F(CudaEmulatorTest, AtomicsCount) {
  Buffer counts(*device_, 4);
  samples::count_threads(*stream_, counts.as<unsigned>().data(), 9);
  EXPECT_THAT(download<unsigned>(counts), testing::ElementsAre(9 * 64));
}

TEST_F(CudaEmulatorTest, NothingRunsWhenItIsIssued) {
  Buffer x(*device_, kCount * 4);
  samples::fill(*stream_, floats(x), kCount, 1.0f);
  samples::fill(*stream_, floats(x), kCount, 2.0f);
  EXPECT_EQ(pending_work(), 2u);
  const std::uint64_t run = kernels_run();
  stream_->synchronize();
  EXPECT_EQ(pending_work(), 0u);
  EXPECT_EQ(kernels_run(), run + 2);
}

TEST_F(CudaEmulatorTest, AForgottenBarrierShows) {
  std::vector<float> right(kBlocks * 64);
  const std::vector<float> values = some_values(kBlocks * 64);
  for (std::size_t i = 0; i < right.size(); ++i) right[i] = values[i / 64 * 64 + 63 - i % 64];
  for (const auto barrier : {samples::Barrier::waits, samples::Barrier::forgotten}) {
    Buffer x = upload(values);
    samples::reverse(*stream_, floats(x), kBlocks, barrier);
    EXPECT_EQ(download<float>(x) == right, barrier == samples::Barrier::waits);
  }
}

// Two streams add to one value without a word to each other: 0 -> *2 + 1 or + 1 then * 2 ...
float race(CudaDevice& device) {
  CudaStream a(device);
  CudaStream b(device);
  Buffer x(device, 4);
  Buffer one(device, 4);
  samples::fill(a, one.as<float>().data(), 1, 1.0f);
  b.follow(a, a.mark());
  samples::fill(a, x.as<float>().data(), 1, 5.0f);
  samples::scale_add(b, x.as<float>().data(), one.as<float>().data(), 1, 2.0f);
  samples::scale_add(a, x.as<float>().data(), one.as<float>().data(), 1, 3.0f);
  a.synchronize();
  float seen = 0;
  b.copy(&seen, x.data(), 4);
  return seen;
}

TEST_F(CudaEmulatorTest, TheSeedChoosesTheOrder) {
  std::set<float> results;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    start(seed);
    const float first = race(*device_);
    start(seed);
    EXPECT_EQ(race(*device_), first) << "seed " << seed << " gives two orders";
    results.insert(first);
  }
  EXPECT_EQ(results, (std::set<float>{16, 33, 34}));  // b before all of a's, between, after
}

TEST_F(CudaEmulatorTest, OpensDeviceMemoryToTestsThatAsk) {
  Buffer x(*device_, 4);
  samples::fill(*stream_, floats(x), 1, 6.0f);
  stream_->synchronize();
  const OpenDeviceMemory open;
  EXPECT_EQ(*floats(x), 6.0f);
}

TEST_F(CudaEmulatorTest, CountsWhatIsNotGivenBack) {
  {
    const Buffer x(*device_, 4);
    const Buffer pinned(*device_, 4, Space::host);
    EXPECT_EQ(live_allocations(), 2u);
  }
  EXPECT_EQ(live_allocations(), 0u);
}

TEST_F(CudaEmulatorDeathTest, HostCodeThatTouchesDeviceMemoryDies) {
  Buffer x(*device_, 4);
  EXPECT_DEATH(*floats(x) = 1.0f, "host code touched device memory");
  EXPECT_DEATH(EXPECT_EQ(*floats(x), 0.0f), "host code touched device memory");
}

TEST_F(CudaEmulatorDeathTest, AccessesOutsideOfAllocationsDie) {
  Buffer x(*device_, 256 * 4);
  Buffer y(*device_, 256 * 4);
  EXPECT_DEATH(
      {
        samples::fill(*stream_, floats(x), 257, 1.0f);
        stream_->synchronize();
      },
      "kernel touched .* no allocation; launched at .*samples_cuda.cu:.*block \\(1, 0, 0\\), "
      "thread 0");
  EXPECT_DEATH(
      {
        samples::scale_add(*stream_, floats(y), floats(x) + 1, 256, 1.0f);
        stream_->synchronize();
      },
      "kernel touched");
  EXPECT_DEATH(
      {
        float* gone = nullptr;
        {
          Buffer freed(*device_, 4);
          gone = floats(freed);
        }
        samples::fill(*stream_, gone, 1, 1.0f);
        stream_->synchronize();
      },
      "kernel touched");
}

TEST_F(CudaEmulatorDeathTest, AWriteJustBehindAnAllocationIsSeenWhenItIsFreed) {
  EXPECT_DEATH(
      {
        Buffer x(*device_, 100);
        samples::fill(*stream_, floats(x), 26, 1.0f);
        stream_->synchronize();
      },
      "behind the end");
}

TEST_F(CudaEmulatorDeathTest, AnAddressThatIsNoMultipleOfTheAccessIsReported) {
  Buffer x(*device_, 1024);
  auto* const odd = reinterpret_cast<float*>(x.data() + 2);
  EXPECT_DEATH(
      {
        samples::fill(*stream_, odd, 1, 1.0f);
        stream_->synchronize();
      },
      "no multiple of what it read or wrote; launched at .*samples_cuda.cu");
}

TEST_F(CudaEmulatorDeathTest, APointerToTheHostIsRefused) {
  std::vector<float> host(256);
  EXPECT_DEATH(samples::fill(*stream_, host.data(), 256, 1.0f), "pointer to host memory");
  Buffer pinned(*device_, 4, Space::host);
  samples::fill(*stream_, floats(pinned), 1, 4.0f);
  stream_->synchronize();
  EXPECT_EQ(*floats(pinned), 4.0f);
}

TEST_F(CudaEmulatorDeathTest, DivergenceIsReported) {
  Buffer x(*device_, 64 * 4);
  EXPECT_DEATH(
      {
        samples::diverge_in_warp(*stream_, floats(x));
        stream_->synchronize();
      },
      "samples_cuda.cu:[0-9]+: divergence.*kernel launched at .*block \\(0, 0, 0\\), thread");
  EXPECT_DEATH(
      {
        samples::diverge_in_block(*stream_, floats(x));
        stream_->synchronize();
      },
      "divergence.*barrier");
  EXPECT_DEATH(
      {
        samples::shuffle_from_exited(*stream_, floats(x));
        stream_->synchronize();
      },
      "lane that is not there");
}

TEST(CheckArgument, TellsAddressesFromSmallNumbersBesideRubbish) {
  constexpr std::size_t kPage = 4096;
  constexpr std::uintptr_t kStep = std::uintptr_t{1} << 32;
  void* at = MAP_FAILED;  // at a multiple of kStep that is free, as arenas may lie
  for (std::uintptr_t i = 0; i < 64 && at == MAP_FAILED; ++i)
    at = mmap(reinterpret_cast<void*>(0x6e9100000000 + i * kStep), 17 * kPage,
              PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  ASSERT_NE(at, MAP_FAILED);
  ASSERT_EQ(reinterpret_cast<std::uintptr_t>(at) % kStep, 0u);
  const auto check = [](std::uintptr_t word) {
    check_argument(&word, members_of<std::uintptr_t>().data(), sizeof word,
                   std::source_location::current());
  };
  check(reinterpret_cast<std::uintptr_t>(at) + 7);
  EXPECT_DEATH(check(reinterpret_cast<std::uintptr_t>(at) + 16 * kPage),
               "pointer to host memory.*0x[0-9a-f]+00010000");
  munmap(at, 17 * kPage);
}

}  // namespace
}  // namespace elaswave::emulator
