// CudaDevice and CudaStream against the emulated runtime.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "parallel/device/buffer.h"
#include "parallel/device/cuda_check.h"
#include "parallel/device/cuda_device.h"
#include "tests/support/cuda/emulator.h"
#include "tests/support/cuda/samples.h"

namespace elaswave::device {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::int64_t kCount = 1000;
constexpr std::int64_t kBytes = kCount * 4;

class CudaDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    emulator::reset();
    device_ = make_cuda_device(0).value();
  }
  void TearDown() override {
    device_.reset();
    EXPECT_EQ(emulator::live_allocations(), 0u);
    EXPECT_EQ(emulator::live_handles(), 0u);
    emulator::reset();
  }

  std::unique_ptr<CudaDevice> device_;
};

std::vector<float> ramp() {
  std::vector<float> values(kCount);
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

template <typename Exception, typename Body>
std::string text_of(Body body) {
  try {
    body();
  } catch (const Exception& thrown) {
    return thrown.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST_F(CudaDeviceTest, SaysWhatItIs) {
  EXPECT_THAT(device_->name(), AllOf(HasSubstr("emulated GPU"), HasSubstr("132 SMs")));
  EXPECT_EQ(device_->bus_id(), "0000:01:00.0");
  EXPECT_FALSE(device_->host_reads());
  EXPECT_EQ(device_->index(), 0);
}

TEST_F(CudaDeviceTest, MemoryIsZeroedAndAligned) {
  CudaStream stream(*device_);
  for (const std::int64_t bytes : {1, 4, 255, 4096, 100'001}) {
    const Buffer memory(*device_, bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.data()) % 256, 0u);
    std::vector<std::byte> seen(static_cast<std::size_t>(bytes), std::byte{1});
    stream.copy(seen.data(), memory.data(), bytes);
    EXPECT_EQ(seen, std::vector<std::byte>(seen.size()));
    Buffer pinned(*device_, bytes, Space::host);
    EXPECT_EQ(0, std::memcmp(pinned.data(), seen.data(), seen.size()));
  }
  EXPECT_EQ(Buffer(*device_, 0).data(), nullptr);
}

TEST_F(CudaDeviceTest, CountsMemory) {
  const CudaDevice::MemoryInfo before = device_->memory_info();
  EXPECT_EQ(before.free_bytes, before.total_bytes);
  const Buffer memory(*device_, kBytes);
  EXPECT_EQ(device_->memory_info().free_bytes, before.free_bytes - kBytes);
}

TEST_F(CudaDeviceTest, PageableMemoryMayBeReusedAtOnce) {
  CudaStream stream(*device_);
  Buffer memory(*device_, kBytes);
  std::vector<float> values = ramp();
  stream.copy(memory.data(), values.data(), kBytes);
  values.assign(kCount, -1.0f);
  stream.copy(values.data(), memory.data(), kBytes);
  EXPECT_EQ(values, ramp());
}

// More than the pieces that may be on their way at once, and a rest.
TEST_F(CudaDeviceTest, LongCopiesOfPageableMemoryGoInPieces) {
  constexpr std::int64_t kLong = 600'011;
  CudaStream stream(*device_);
  Buffer memory(*device_, kLong * 4);
  std::vector<float> values(kLong), seen(kLong);
  std::iota(values.begin(), values.end(), 1.0f);
  const std::vector<float> right = values;
  stream.copy(memory.data(), values.data(), kLong * 4);
  values.assign(kLong, -1.0f);
  stream.copy(seen.data(), memory.data(), kLong * 4);
  EXPECT_EQ(seen, right);
}

TEST_F(CudaDeviceTest, AStreamWaitsForCopiesOfPageableMemoryBeforeItGoes) {
  Buffer memory(*device_, kBytes);
  {
    CudaStream stream(*device_);
    const std::vector<float> values = ramp();
    stream.copy(memory.data(), values.data(), kBytes);
  }
  CudaStream stream(*device_);
  std::vector<float> seen(kCount);
  stream.copy(seen.data(), memory.data(), kBytes);
  EXPECT_EQ(seen, ramp());
}

TEST_F(CudaDeviceTest, PinnedMemoryIsReadWhenTheStreamPassesTheCopy) {
  CudaStream stream(*device_);
  Buffer memory(*device_, kBytes);
  Buffer pinned(*device_, kBytes, Space::host);
  const std::vector<float> values = ramp();
  stream.copy(memory.data(), pinned.data(), kBytes);
  std::memcpy(pinned.data(), values.data(), static_cast<std::size_t>(kBytes));
  stream.synchronize();
  std::vector<float> seen(kCount);
  stream.copy(seen.data(), memory.data(), kBytes);
  EXPECT_EQ(seen, values) << "the copy ran when it was issued";
}

TEST_F(CudaDeviceTest, ZeroComesInOrder) {
  CudaStream stream(*device_);
  Buffer memory(*device_, kBytes);
  samples::fill(stream, memory.as<float>().data(), kCount, 3.0f);
  stream.zero(memory.data(), kBytes / 2);
  std::vector<float> seen(kCount);
  stream.copy(seen.data(), memory.data(), kBytes);
  EXPECT_EQ(seen[kCount / 2 - 1], 0.0f);
  EXPECT_EQ(seen[kCount / 2], 3.0f);
}

TEST_F(CudaDeviceTest, NothingToDoIsNothing) {
  CudaStream stream(*device_);
  stream.copy(nullptr, nullptr, 0);
  stream.zero(nullptr, 0);
  device_->free(Space::device, nullptr);
  EXPECT_EQ(emulator::pending_work(), 0u);
}

TEST_F(CudaDeviceTest, MarksAreReachedInOrder) {
  CudaStream stream(*device_);
  Buffer memory(*device_, kBytes);
  std::vector<Mark> marks;
  for (int i = 0; i < 200; ++i) {
    samples::fill(stream, memory.as<float>().data(), kCount, static_cast<float>(i));
    marks.push_back(stream.mark());
  }
  EXPECT_FALSE(stream.reached(marks.back())) << "the work ran when it was issued";
  while (!stream.reached(marks[100])) continue;
  for (int i = 0; i <= 100; ++i) EXPECT_TRUE(stream.reached(marks[static_cast<std::size_t>(i)]));
  EXPECT_GE(emulator::kernels_run(), 101u);
  stream.synchronize();
  EXPECT_TRUE(stream.reached(marks.back()));
  EXPECT_TRUE(stream.reached(marks.front()));
  EXPECT_TRUE(stream.reached(Mark{})) << "before all work";
}

TEST_F(CudaDeviceTest, AQuestionTooEarlyLeavesNoError) {
  CudaStream stream(*device_);
  Buffer memory(*device_, kBytes);
  for (int i = 0; i < 20; ++i)
    samples::fill(stream, memory.as<float>().data(), kCount, static_cast<float>(i));
  ASSERT_FALSE(stream.reached(stream.mark()));
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  stream.synchronize();
}

TEST_F(CudaDeviceTest, MarksThatArePassedGiveTheirEventsBack) {
  CudaStream stream(*device_);
  stream.synchronize();
  const std::size_t before = emulator::live_handles();
  for (int i = 0; i < 100; ++i) {
    stream.mark();
    stream.synchronize();
  }
  EXPECT_EQ(emulator::live_handles(), before + 1);
}

// What `reader` sees of a value that `writer` writes, and whether every seed shows the same.
std::vector<float> read_after_write(CudaDevice& device, bool follows) {
  CudaStream writer(device);
  CudaStream reader(device);
  Buffer from(device, kBytes);
  Buffer to(device, kBytes);
  samples::fill(writer, from.as<float>().data(), kCount, 1.0f);
  samples::scale_add(writer, from.as<float>().data(), from.as<float>().data(), kCount, 2.0f);
  if (follows) reader.follow(writer, writer.mark());
  reader.copy(to.data(), from.data(), kBytes);
  std::vector<float> seen(kCount);
  reader.copy(seen.data(), to.data(), kBytes);
  writer.synchronize();
  return seen;
}

TEST_F(CudaDeviceTest, FollowOrdersStreams) {
  const std::vector<float> right(kCount, 3.0f);
  int wrong = 0;
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    device_.reset();
    emulator::reset({.seed = seed});
    device_ = make_cuda_device(0).value();
    EXPECT_EQ(read_after_write(*device_, true), right) << "seed " << seed;
    wrong += read_after_write(*device_, false) != right ? 1 : 0;
  }
  EXPECT_GT(wrong, 5) << "the emulator does not show a forgotten wait";
}

TEST_F(CudaDeviceTest, FollowOfAPassedMarkIssuesNothing) {
  CudaStream one(*device_);
  CudaStream other(*device_);
  const Mark mark = other.mark();
  while (!other.reached(mark)) continue;
  one.follow(other, mark);
  EXPECT_EQ(emulator::pending_work(), 0u);
}

TEST_F(CudaDeviceTest, AStopwatchTellsTheStreamsOwnTime) {
  constexpr Nanoseconds kKernel = 5'000'000;
  emulator::kernels_take(kKernel);
  CudaStream stream(*device_);
  const std::unique_ptr<Stream> other = stream.beside();
  Buffer memory(*device_, kBytes);
  float* const x = memory.as<float>().data();
  const RealClock clock;
  const std::unique_ptr<Stopwatch> watch = stream.stopwatch(clock);
  for (int round = 0; round < 2; ++round) {
    emulator::set_host_time(round * kSecond);
    watch->clear();
    watch->stamp();
    samples::fill(stream, x, kCount, 1.0f);
    samples::fill(stream, x, kCount, 2.0f);
    watch->stamp();
    samples::fill(static_cast<CudaStream&>(*other), x, kCount, 3.0f);  // is another's
    watch->stamp();
    emulator::set_host_time(round * kSecond + 100 * kMillisecond);  // the device has nothing to do
    samples::fill(stream, x, kCount, 4.0f);
    watch->stamp();
    EXPECT_THROW(static_cast<void>(watch->at(3)), DeviceLost) << "before the stream came there";
    stream.synchronize();
    EXPECT_EQ(watch->at(0), 0);
    EXPECT_EQ(watch->at(1), 2 * kKernel);
    EXPECT_EQ(watch->at(2), 2 * kKernel);
    EXPECT_EQ(watch->at(3), 100 * kMillisecond + kKernel);
    other->synchronize();
  }
}

TEST_F(CudaDeviceTest, OutOfMemorySaysWhatWasAskedAndWhatThereIs) {
  device_.reset();
  emulator::reset({.device_bytes = 10'000});
  device_ = make_cuda_device(0).value();
  const Buffer taken(*device_, 4'000);
  const std::string text = text_of<OutOfMemory>([&] { Buffer(*device_, 6'001); });
  EXPECT_THAT(text, AllOf(HasSubstr("6001"), HasSubstr("6000"), HasSubstr("10000")));
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_NO_THROW(Buffer(*device_, 6'000));
}

TEST_F(CudaDeviceTest, PoisonIsALostDevice) {
  CudaStream stream(*device_);
  Buffer memory(*device_, kBytes);
  emulator::poison_at_kernel(2);
  float* const x = memory.as<float>().data();
  samples::fill(stream, x, kCount, 1.0f);
  const Mark good = stream.mark();
  samples::fill(stream, x, kCount, 2.0f);
  samples::fill(stream, x, kCount, 3.0f);
  static_cast<void>(good);
  const std::string text = text_of<DeviceLost>([&] { stream.synchronize(); });
  EXPECT_THAT(text, AllOf(HasSubstr("cudaEventSynchronize"), HasSubstr("cudaErrorIllegalAddress"),
                          HasSubstr("cuda_stream.cpp"), Not(HasSubstr("bug"))));
  EXPECT_EQ(emulator::kernels_run(), 2u);
  EXPECT_THROW(stream.mark(), DeviceLost);
  EXPECT_THROW(stream.reached(good), DeviceLost);
  EXPECT_THROW(stream.zero(memory.data(), 4), DeviceLost);
  EXPECT_THROW(samples::fill(stream, x, kCount, 1.0f), DeviceLost);
  EXPECT_THROW(device_->memory_info(), DeviceLost);
  EXPECT_THROW(Buffer(*device_, 4), DeviceLost);
}

TEST_F(CudaDeviceTest, MisuseIsCalledABug) {
  CudaStream stream(*device_);
  Buffer memory(*device_, kBytes);
  std::vector<float> values = ramp();
  const std::string text =
      text_of<DeviceLost>([&] { stream.copy(memory.data() + 4, values.data(), kBytes); });
  EXPECT_THAT(text, AllOf(HasSubstr("cudaErrorInvalidValue"), HasSubstr("bug")));
  EXPECT_THAT(
      text_of<DeviceLost>([&] { samples::fill(stream, memory.as<float>().data(), 0, 1.0f); }),
      AllOf(HasSubstr("cudaErrorInvalidConfiguration"), HasSubstr("samples_cuda.cu")));
}

TEST_F(CudaDeviceTest, EveryCallIsChecked) {
  // Whichever call fails, somebody hears of it: no result is taken for granted.
  int heard = 0;
  for (std::uint64_t call = 1;; ++call) {
    device_.reset();
    emulator::reset();
    emulator::fail_call(call, cudaErrorLaunchFailure);
    try {
      const auto device = make_cuda_device(0);
      if (!device) {
        ++heard;
        continue;
      }
      CudaStream stream(**device);
      CudaStream other(**device);
      const Buffer memory(**device, 4);
      const Buffer pinned(**device, 4, Space::host);
      stream.zero(const_cast<std::byte*>(memory.data()), 4);
      other.follow(stream, stream.mark());
      static_cast<void>(stream.reached(stream.mark()));
      other.synchronize();
      static_cast<void>((*device)->memory_info());
      break;  // the planted call comes after all of these: in a destructor
    } catch (const DeviceLost&) {
      ++heard;
    }
  }
  EXPECT_GT(heard, 25);
}

TEST_F(CudaDeviceTest, AFullDeviceAtTheStartIsRefused) {
  device_.reset();
  emulator::reset();
  emulator::fail_call(2, cudaErrorMemoryAllocation);
  const auto device = make_cuda_device(0);
  ASSERT_FALSE(device.has_value());
  EXPECT_EQ(device.error().code, Code::does_not_fit);
}

TEST(MakeCudaDevice, SaysInOneLineThatThereIsNoDriver) {
  emulator::reset({.driver = false});
  const auto device = make_cuda_device(0);
  ASSERT_FALSE(device.has_value());
  EXPECT_EQ(device.error().code, Code::unavailable);
  EXPECT_THAT(device.error().what, ::testing::StartsWith("no NVIDIA driver: "));
  EXPECT_THAT(device.error().what, Not(HasSubstr("\n")));
}

TEST(MakeCudaDevice, RefusesADeviceThatIsNotThereOrTooOld) {
  for (const int devices : {0, 2}) {
    emulator::reset({.devices = devices});
    const auto device = make_cuda_device(devices);
    ASSERT_FALSE(device.has_value());
    EXPECT_THAT(device.error().why, HasSubstr(std::to_string(devices)));
  }
  emulator::reset({.compute_major = 8, .compute_minor = 6});
  const auto device = make_cuda_device(0);
  ASSERT_FALSE(device.has_value());
  EXPECT_THAT(device.error().why, AllOf(HasSubstr("8.6"), HasSubstr("9.0")));
  emulator::reset({.compute_major = 10});
  EXPECT_TRUE(make_cuda_device(0).has_value());
  emulator::reset();
}

TEST(Triage, TellsPoisonFromFullFromMisuse) {
  EXPECT_EQ(triage(cudaErrorMemoryAllocation), CudaFailure::out_of_memory);
  for (const cudaError_t lost : {cudaErrorIllegalAddress, cudaErrorLaunchFailure,
                                 cudaErrorECCUncorrectable, cudaErrorUnknown})
    EXPECT_EQ(triage(lost), CudaFailure::lost) << lost;
  for (const cudaError_t ours : {cudaErrorInvalidValue, cudaErrorInvalidConfiguration,
                                 cudaErrorNoKernelImageForDevice, cudaErrorInvalidResourceHandle})
    EXPECT_EQ(triage(ours), CudaFailure::misused) << ours;
}

}  // namespace
}  // namespace elaswave::device
