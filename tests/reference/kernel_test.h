// What tests of operations share. A body says nothing about the backend: it is compiled once and
// linked with one backend after another (tests/support/backend.h); where the machine or the build
// lacks that one, it skips.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/backend.h"
#include "tests/support/device_memory.h"
#include "tests/support/kernel_numbers.h"

namespace elaswave::kernels {

using testing::bytes_of;
using testing::converted;
using testing::DeviceVector;
using testing::dropout_factor;
using testing::expect_accurate;
using testing::expect_gradient;
using testing::largest_error;
using testing::naive_product;
using testing::Padded;
using testing::Place;
using testing::random_floats;
using testing::random_values;
using testing::same_bits;
using testing::sample_streams;
using testing::stored;
using testing::Sums;

class KernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = testing::make_backend();
    if (!made) GTEST_SKIP() << made.error().text();
    backend_ = std::move(*made);
    stream_ = backend_->make_stream(0);
  }
  testing::Backend& backend() { return *backend_; }
  Ops& ops() { return backend_->ops(); }
  Stream& stream() { return *stream_; }

  /// body(stream, extra) on a stream of each kind, then once more on one of the first; the bytes it
  /// returns must not change. `extra` is for padding of rows: other than 0 where strides keep bits.
  template <typename Body>
  void expect_same_for_streams(const Body& body) {
    const int kinds = backend().stream_kinds();
    std::vector<std::byte> first;
    for (int run = 0; run <= kinds; ++run) {
      SCOPED_TRACE("stream of kind " + std::to_string(run % kinds));
      const auto stream = backend().make_stream(run % kinds);
      const std::vector<std::byte> bytes = body(*stream, backend().strides_keep_bits() ? run : 0);
      if (run == 0) {
        first = bytes;
        ASSERT_FALSE(first.empty());
      }
      EXPECT_TRUE(bytes == first);
    }
  }

 private:
  std::unique_ptr<testing::Backend> backend_;
  std::shared_ptr<Stream> stream_;
};

/// Bodies that run once for each storage type of activations and weights. Instantiate with
/// EW_FOR_STORAGE_TYPES.
class StorageTest : public KernelTest, public ::testing::WithParamInterface<DType> {
 protected:
  DType dtype() const { return GetParam(); }
  Place place() { return on(stream()); }
  Place on(Stream& stream) const { return {stream, dtype()}; }
  std::vector<float> stored(std::vector<float> values) const {
    return testing::stored(std::move(values), dtype());
  }
  float stored(float value) const { return testing::stored(value, dtype()); }
};

#define EW_FOR_STORAGE_TYPES(Suite)                                                            \
  INSTANTIATE_TEST_SUITE_P(Storage, Suite,                                                     \
                           ::testing::Values(::elaswave::DType::f32, ::elaswave::DType::bf16), \
                           [](const ::testing::TestParamInfo<::elaswave::DType>& i) {          \
                             return std::string(::elaswave::name(i.param));                    \
                           })

}  // namespace elaswave::kernels
