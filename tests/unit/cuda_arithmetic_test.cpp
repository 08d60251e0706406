// Arithmetic on a CUDA stream, on the emulated device, bit by bit against the host's.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "io/base/hash.h"
#include "parallel/device/cuda_arithmetic.h"
#include "tests/support/shifted.h"

namespace elaswave::device {
namespace {

using testing::bytes_of;
using testing::DeviceVector;
using testing::kLayouts;
using testing::Layout;
using testing::random_floats;
using testing::Shifted;
using testing::stored;

/// One of the two that a body runs on.
struct Side {
  Arithmetic& arithmetic;
  Stream& stream;
};

class CudaArithmeticTest : public ::testing::Test {
 protected:
  /// What body(side) returns must be the same bytes on both sides.
  void expect_same_bits(const std::function<std::vector<std::byte>(const Side&)>& body) {
    const auto ours = body({*arithmetic_, stream_}), theirs = body({host_arithmetic(), host_});
    ASSERT_EQ(ours.size(), theirs.size());
    const auto at = std::mismatch(ours.begin(), ours.end(), theirs.begin()).first - ours.begin();
    EXPECT_EQ(at, std::ssize(ours)) << "bytes that agree";
  }

  std::unique_ptr<CudaDevice> device_ = make_cuda_device(0).value();
  CudaStream stream_{*device_};
  std::unique_ptr<Arithmetic> arithmetic_ = make_cuda_arithmetic(stream_);
  CpuStream host_{1};
};

constexpr std::size_t kCounts[] = {0, 1, 2, 3, 4, 5, 31, 64, 1001, 4096};
constexpr std::size_t kOffsets[] = {0, 1, 2, 3};
constexpr std::size_t kBehind = 3;

std::vector<std::int64_t> whole_numbers(std::size_t count, std::uint64_t seed) {
  std::vector<std::int64_t> numbers;
  for (std::uint64_t i = 0; i < count; ++i)  // every magnitude; sums of two fit
    numbers.push_back(static_cast<std::int64_t>(mix64(mix64(seed) + i)) >> (1 + i % 60));
  return numbers;
}

/// Signed zeros and numbers so far apart that the order of a sum is seen in it.
std::vector<float> wild_floats(std::size_t count, std::uint64_t seed) {
  std::vector<float> numbers = random_floats(static_cast<std::int64_t>(count), seed);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t word = mix64(mix64(seed) + i);
    numbers[i] = word % 7 == 0 ? -0.0f : std::ldexp(numbers[i], static_cast<int>(word % 24));
  }
  return numbers;
}

template <typename T>
std::vector<std::byte> added(const Side& side, const std::vector<T>& into,
                             const std::vector<T>& from, std::size_t into_at, std::size_t from_at) {
  DeviceVector<T> sums(side.stream, into);
  const DeviceVector<T> addends(side.stream, from);
  const std::size_t count = into.size() - into_at - kBehind;
  side.arithmetic.add(sums.span().subspan(into_at, count), addends.span().subspan(from_at, count));
  return bytes_of(sums.get());
}

TEST_F(CudaArithmeticTest, AddsWholeNumbers) {
  for (const std::size_t count : kCounts)
    for (const std::size_t into_at : kOffsets)
      for (const std::size_t from_at : kOffsets) {
        SCOPED_TRACE(::testing::Message() << count << " at " << into_at << " from " << from_at);
        const auto into = whole_numbers(into_at + count + kBehind, 1);
        const auto from = whole_numbers(from_at + count + kBehind, 2);
        expect_same_bits(
            [&](const Side& side) { return added(side, into, from, into_at, from_at); });
      }
}

TEST_F(CudaArithmeticTest, AddsFloats) {
  for (const std::size_t count : kCounts)
    for (const std::size_t into_at : kOffsets)
      for (const std::size_t from_at : kOffsets) {
        SCOPED_TRACE(::testing::Message() << count << " at " << into_at << " from " << from_at);
        const auto into = wild_floats(into_at + count + kBehind, 1);
        const auto from = wild_floats(from_at + count + kBehind, 2);
        expect_same_bits(
            [&](const Side& side) { return added(side, into, from, into_at, from_at); });
      }
}

// More numbers than a launch has threads: each takes several.
TEST_F(CudaArithmeticTest, AddsManyNumbers) {
  constexpr std::size_t kMany = 132 * 16 * 256 + 1001;
  const auto into = wild_floats(kMany + kBehind + 1, 1), from = wild_floats(kMany + kBehind, 2);
  expect_same_bits([&](const Side& side) { return added(side, into, from, 1, 0); });
  const auto sums = whole_numbers(2 * kMany + kBehind, 1);
  const auto addends = whole_numbers(2 * kMany + kBehind, 2);
  expect_same_bits([&](const Side& side) { return added(side, sums, addends, 0, 0); });
}

TEST_F(CudaArithmeticTest, ZeroesAndCopiesBytes) {
  for (const std::size_t count : {0, 1, 3, 16, 1001})
    for (const std::size_t at : {0, 1, 5}) {
      SCOPED_TRACE(::testing::Message() << count << " at " << at);
      expect_same_bits([&](const Side& side) {
        const std::vector<std::byte> before(count + 9, std::byte{0x5A});
        std::vector<std::byte> source(count + 9);
        for (std::size_t i = 0; i < source.size(); ++i) source[i] = std::byte(mix64(i));
        DeviceVector<std::byte> zeroed(side.stream, before), copied(side.stream, before);
        const DeviceVector<std::byte> from(side.stream, source);
        side.arithmetic.zero(zeroed.span().subspan(at, count));
        side.arithmetic.copy(from.span().subspan(2, count), copied.span().subspan(at, count));
        return bytes_of(zeroed.get(), copied.get());
      });
    }
}

struct Size {
  std::int64_t rows, cols;
};
constexpr Size kSizes[] = {{1, 1}, {3, 5}, {7, 33}, {16, 64}, {1, 1001}, {0, 4}};

TEST_F(CudaArithmeticTest, CopiesRowsBetweenLayouts) {
  for (const Layout& from : kLayouts)
    for (const Layout& to : kLayouts)
      for (const auto& [rows, cols] : kSizes) {
        if (from.dtype != to.dtype) continue;
        SCOPED_TRACE(::testing::Message()
                     << text(from) << " to " << text(to) << ", " << rows << " x " << cols);
        const auto values = stored(random_floats(rows * cols, 1), from.dtype);
        expect_same_bits([&](const Side& side) {
          const Shifted source(side.stream, from, values, rows, cols);
          Shifted target(side.stream, to, rows, cols);
          side.arithmetic.copy_rows(source.view(), target.mat());
          EXPECT_EQ(target.values(), values);
          side.arithmetic.copy_rows(target.view(), target.mat());
          return bytes_of(target.values(), source.values());
        });
      }
}

/// Addends in layouts of their own, one more than the last.
std::vector<Shifted> some_addends(const Side& side, std::int64_t count, const Size& size) {
  std::vector<Shifted> addends;
  addends.reserve(static_cast<std::size_t>(count));
  for (std::int64_t k = 0; k < count; ++k) {
    const Layout layout{DType::f32, k % 4 == 2 ? 0 : 3 * k, k % 3};
    const auto elems = static_cast<std::size_t>(size.rows * size.cols);
    addends.emplace_back(side.stream, layout, wild_floats(elems, static_cast<std::uint64_t>(k)),
                         size.rows, size.cols);
  }
  return addends;
}

std::vector<ConstMat> views(const std::vector<Shifted>& addends) {
  std::vector<ConstMat> views;
  for (const Shifted& addend : addends) views.push_back(addend.view());
  return views;
}

TEST_F(CudaArithmeticTest, SumsRowsInOrder) {
  for (const std::int64_t count : {1, 2, 3, 8, kMostAddends})
    for (const Layout& layout : kLayouts)
      for (const Size& size : kSizes) {
        SCOPED_TRACE(::testing::Message() << count << " addends, " << size.rows << " x "
                                          << size.cols << ' ' << text(layout));
        expect_same_bits([&](const Side& side) {
          const std::vector<Shifted> addends = some_addends(side, count, size);
          Shifted out(side.stream, layout, size.rows, size.cols);
          side.arithmetic.sum_rows(views(addends), out.mat());
          std::vector<float> values = out.values();
          for (const Shifted& addend : addends) {
            const auto kept = addend.values();
            values.insert(values.end(), kept.begin(), kept.end());
          }
          return bytes_of(values);
        });
      }
}

TEST_F(CudaArithmeticTest, SumsIntoAnAddend) {
  for (const std::int64_t count : {1, 2, 5, kMostAddends})
    for (const std::int64_t chosen : {std::int64_t{0}, count / 2, count - 1})
      for (const Size& size : kSizes) {
        SCOPED_TRACE(::testing::Message() << chosen << " of " << count << " addends, " << size.rows
                                          << " x " << size.cols);
        expect_same_bits([&](const Side& side) {
          std::vector<Shifted> addends = some_addends(side, count, size);
          Shifted& out = addends[static_cast<std::size_t>(chosen)];
          side.arithmetic.sum_rows(views(addends), out.mat());
          return bytes_of(out.values());
        });
      }
}

TEST_F(CudaArithmeticTest, RoundsSumsToBf16Once) {
  std::vector<float> values;
  for (const std::uint32_t bits :
       {0x3f808000u, 0x3f818000u, 0x3f808001u, 0x3f807fffu, 0xbf808000u, 0xbf818000u, 0x7f7fffffu,
        0x7f7f7fffu, 0x00000001u, 0x00008000u, 0x80000000u, 0x00018000u, 0x7f800000u, 0xff800000u})
    values.push_back(std::bit_cast<float>(bits));
  const std::int64_t cols = std::ssize(values);
  const std::vector<float> zeros(values.size(), -0.0f);  // they change nothing
  for (const bool twice : {false, true})
    expect_same_bits([&](const Side& side) {
      const Shifted one(side.stream, {}, values, 1, cols), none(side.stream, {}, zeros, 1, cols);
      Shifted out(side.stream, {DType::bf16}, 1, cols);
      const ConstMat addends[] = {one.view(), twice ? one.view() : none.view()};
      side.arithmetic.sum_rows(addends, out.mat());
      return bytes_of(out.values());
    });
}

TEST_F(CudaArithmeticTest, WrongSizesAreBugs) {
  DeviceVector<float> three(stream_, 3, 1.0f), two(stream_, 2, 1.0f);
  EXPECT_EXIT(arithmetic_->add(three.span(), two.span()), ::testing::ExitedWithCode(70),
              "2 numbers added to 3");
  const Size size{2, 3};
  const std::vector<Shifted> addends = some_addends({*arithmetic_, stream_}, 17, size);
  Shifted out(stream_, {}, 2, 3);
  EXPECT_EXIT(arithmetic_->sum_rows(views(addends), out.mat()), ::testing::ExitedWithCode(70),
              "17 addends, 16 have a kernel");
  EXPECT_EXIT(arithmetic_->sum_rows({}, out.mat()), ::testing::ExitedWithCode(70), "0 addends");
}

/// Pieces of unlike lengths, more than one launch takes, one behind the other from `first` on, each
/// at a multiple of 16 bytes.
struct Places {
  std::vector<std::pair<std::int64_t, std::int64_t>> begin_count;  // elements
  std::int64_t end = 0;
};
template <typename T>
Places places(std::int64_t first, std::size_t pieces) {
  constexpr auto kLanes = static_cast<std::int64_t>(16 / sizeof(T));
  Places places{.begin_count = {}, .end = first};
  for (std::size_t i = 0; i < pieces; ++i) {
    const auto count = static_cast<std::int64_t>(kCounts[i % std::size(kCounts)] + i / 10);
    places.begin_count.emplace_back(places.end, count);
    places.end += (count + kLanes - 1) / kLanes * kLanes + (i % 2 == 0 ? 0 : kLanes);
  }
  return places;
}

template <typename T>
std::vector<std::byte> added_pieces(const Side& side, const std::vector<T>& numbers,
                                    std::size_t pieces, std::int64_t first, std::int64_t addends) {
  const Places at = places<T>(first, pieces);
  const std::int64_t stride = at.end - first;
  DeviceVector<T> into(side.stream, std::vector<T>(numbers.begin(), numbers.begin() + at.end));
  DeviceVector<T> from(side.stream,
                       std::vector<T>(numbers.begin(), numbers.begin() + first + addends * stride));
  std::vector<PieceSum<T>> sums;
  for (const auto& [begin, count] : at.begin_count)
    sums.push_back({into.span().data() + begin, from.span().data() + begin, count});
  side.arithmetic.add_pieces(std::span<const PieceSum<T>>(sums), stride, addends);
  return bytes_of(into.get());
}

TEST_F(CudaArithmeticTest, AddsPiecesInTheOrderOfAddends) {
  const auto whole = whole_numbers(1 << 20, 5);
  const auto wild = wild_floats(1 << 20, 6);
  for (const std::size_t pieces : {0, 1, 120, 121})
    for (const std::int64_t first : {0, 1})
      for (const std::int64_t addends : {0, 3}) {
        SCOPED_TRACE(pieces);
        expect_same_bits(
            [&](const Side& side) { return added_pieces(side, whole, pieces, first, addends); });
        expect_same_bits(
            [&](const Side& side) { return added_pieces(side, wild, pieces, first, addends); });
      }
}

TEST_F(CudaArithmeticTest, CopiesPiecesAndNothingBesideThem) {
  const auto numbers = wild_floats(1 << 20, 7);
  for (const std::size_t pieces : {0, 1, 120, 121})
    for (const std::int64_t first : {0, 1})
      expect_same_bits([&](const Side& side) {
        const Places at = places<float>(first, pieces);
        const auto size = static_cast<std::ptrdiff_t>(at.end + 8);
        DeviceVector<float> from(side.stream, {numbers.begin(), numbers.begin() + size});
        DeviceVector<float> to(side.stream, std::vector<float>(static_cast<std::size_t>(size)));
        std::vector<PieceCopy> copies;
        for (const auto& [begin, count] : at.begin_count)
          copies.push_back({reinterpret_cast<const std::byte*>(from.span().data() + begin),
                            reinterpret_cast<std::byte*>(to.span().data() + begin), count * 4 - 1});
        std::erase_if(copies, [](const PieceCopy& copy) { return copy.bytes < 0; });
        side.arithmetic.copy_pieces(copies);
        return bytes_of(to.get());
      });
}

}  // namespace
}  // namespace elaswave::device
