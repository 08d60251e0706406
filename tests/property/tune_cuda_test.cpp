// `elaswave tune` on emulated GPUs: which products it finds, that its file can be stopped anywhere,
// and that a run takes the rows.
#include "app/tune_cuda.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "app/rank_device_cuda.h"
#include "model/kernels/cuda_ops.h"
#include "tests/support/cuda/emulator.h"
#include "tests/support/cuda/fake_cublaslt.h"
#include "tests/support/training.h"

namespace elaswave::test {
namespace {

using app::RunSpec;
using app::TuneFile;
using ::elaswave::testing::fake_cublaslt;
using ::elaswave::testing::FakeAlgorithm;
using kernels::GemmTable;
using kernels::ProductForm;
using kernels::ProductShape;
using kernels::cuda::Gemm;
using kernels::cuda::GemmChoice;

constexpr kernels::cuda::TuneRules kRules{
    .repeats = 2, .round_seconds = 1e-6, .rotated_bytes = 1 << 12};

RunSpec run_spec(DType storage, std::int32_t tensor) {
  app::Config config = tiny_config("none");
  config.model.hidden = 32;
  config.model.heads = 2;
  config.model.context = 16;  // the fake splits sums of 32 terms
  config.model.vocab = 48;
  config.parallel.tp = tensor;
  config.device.kind = "cuda";
  RunSpec spec = app::resolve(config).value();
  spec.storage = storage;
  return spec;
}

class TuneCuda : public ::testing::Test {
 protected:
  TuneCuda() {
    // The library's first choice takes 100 us, another 50.
    emulator::kernels_take(1000);
    idle(FakeAlgorithm::split) = 99;
    idle(FakeAlgorithm::plain) = 49;
  }
  ~TuneCuda() override {
    idle(FakeAlgorithm::split) = 0;
    idle(FakeAlgorithm::plain) = 0;
    emulator::kernels_take(0);
  }
  static std::atomic<std::int64_t>& idle(FakeAlgorithm algorithm) {
    return fake_cublaslt().idle_kernels[static_cast<std::size_t>(algorithm)];
  }

  std::set<ProductShape> products(const RunSpec& spec) {
    const auto device = device::make_cuda_device(0).value();
    const std::shared_ptr<Gemm> gemm = Gemm::create(*device, "").value();
    std::set<ProductShape> shapes;
    const std::vector<GemmChoice> found = app::record_products(*device, gemm, spec).value();
    for (const GemmChoice& product : found) {
      EXPECT_TRUE(product.aligned) << describe(product.shape);
      shapes.insert(product.shape);
    }
    return shapes;
  }
  void tune(const RunSpec& spec, const std::string& path) {
    TuneFile file = TuneFile::open(path).value();
    const Result<void> tuned =
        app::tune_cuda({.spec = spec, .candidates = 8, .rounds = 1}, file, kRules);
    ASSERT_TRUE(tuned) << tuned.error().text();
  }
  static std::string read(const std::string& path) {
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  /// Of the file, without the comments of sessions, in order of the text.
  static std::multiset<std::string> rows(const std::string& text) {
    std::multiset<std::string> lines;
    std::stringstream stream(text);
    for (std::string line; std::getline(stream, line);)
      if (!line.starts_with("#")) lines.insert(line.substr(0, line.find('#')));
    return lines;
  }

  TemporaryFolder folder_;

 private:
  // That host code keeps away from device memory is other tests' to show: opening and closing it
  // around each kernel takes most of the time.
  emulator::OpenDeviceMemory open_;
};

/// The products of a block and of the head, written down from the model's architecture. Terms of
/// sums over slices are f32; the bias is one slice's alone there.
std::set<ProductShape> expected_products(const RunSpec& spec) {
  using enum ProductForm;
  const std::int64_t N = spec.tokens_per_micro_batch(), C = spec.model.hidden, V = spec.model.vocab,
                     t = spec.layout.tensor;
  const DType type = spec.storage, term = t == 1 ? type : DType::f32;
  using kernels::Epilogue;
  std::set<ProductShape> list;
  const auto split_by_columns = [&](std::int64_t in, std::int64_t out) {
    list.insert({nn, N, out, in, type, type, Epilogue::bias});
    list.insert({nt, N, in, out, type, term});
    list.insert({tn, in, out, N, type, DType::f32});
  };
  const auto split_by_rows = [&](std::int64_t in, std::int64_t out, Epilogue backward) {
    list.insert({nn, N, out, in, type, term, Epilogue::bias});
    if (t > 1) list.insert({nn, N, out, in, type, term, Epilogue::none});
    list.insert({nt, N, in, out, type, type, backward});
    list.insert({tn, in, out, N, type, DType::f32});
  };
  split_by_columns(C, 3 * C / t);
  split_by_rows(C / t, C, Epilogue::none);
  split_by_columns(C, 4 * C / t);
  split_by_rows(4 * C / t, C, type == DType::bf16 ? Epilogue::dgelu : Epilogue::none);
  list.insert({nt, N, V / t, C, type, DType::f32});
  list.insert({nn, N, C, V / t, type, term});
  list.insert({tn, V / t, C, N, type, DType::f32});
  return list;
}
std::string text(const std::set<ProductShape>& shapes) {
  std::string all;
  for (const ProductShape& shape : shapes) all += describe(shape) + "\n";
  return all;
}

TEST_F(TuneCuda, finds_the_products_of_a_run) {
  struct Case {
    DType storage;
    std::int32_t tensor;
  };
  for (const auto& [storage, tensor] :
       {Case{DType::f32, 1}, Case{DType::f32, 2}, Case{DType::bf16, 1}, Case{DType::bf16, 2}}) {
    const RunSpec spec = run_spec(storage, tensor);
    EXPECT_EQ(text(products(spec)), text(expected_products(spec)))
        << name(storage) << ", tensor degree " << tensor;
  }
}

TEST_F(TuneCuda, writes_a_table_that_a_run_takes) {
  const RunSpec spec = run_spec(DType::bf16, 1);
  const std::string path = folder_.file("table");
  tune(spec, path);
  const auto device = device::make_cuda_device(0).value();
  const std::string rows = read(path);
  const std::shared_ptr<Gemm> tuned = Gemm::create(*device, rows).value();
  EXPECT_NE(tuned->hash(), Gemm::create(*device, "").value()->hash());
  const std::vector<GemmChoice> taken = app::record_products(*device, tuned, spec).value();
  for (const GemmChoice& product : taken) {
    EXPECT_TRUE(product.tuned) << describe(product.shape);
    EXPECT_EQ(product.algorithm[0] & 0xFF, static_cast<std::uint64_t>(FakeAlgorithm::plain));
  }
}

TEST_F(TuneCuda, goes_on_wherever_it_was_stopped) {
  const RunSpec spec = run_spec(DType::bf16, 1);
  const std::string whole = folder_.file("whole");
  tune(spec, whole);
  const std::string text = read(whole);
  EXPECT_EQ(rows(text).size(), 1 + expected_products(spec).size());
  for (const std::size_t cut :
       {std::size_t{0}, std::size_t{9}, text.size() / 2, text.size() - 30, text.size()}) {
    const std::string path = folder_.file(fmt::format("cut at {}", cut));
    std::ofstream(path) << text.substr(0, cut);
    const std::int64_t before = fake_cublaslt().matmuls;
    tune(spec, path);
    EXPECT_EQ(rows(read(path)), rows(text)) << "cut at " << cut;
    const auto device = device::make_cuda_device(0).value();
    EXPECT_TRUE(Gemm::create(*device, read(path)));
    if (cut == text.size()) {
      // One micro-batch to find the products, none to measure them.
      EXPECT_EQ(fake_cublaslt().matmuls - before,
                static_cast<std::int64_t>(expected_products(spec).size()));
    }
  }
}

TEST_F(TuneCuda, the_table_of_a_run_is_part_of_its_numeric_class) {
  const std::string path = folder_.file("table");
  tune(run_spec(DType::bf16, 1), path);
  const auto class_with = [&](std::string_view rows) {
    const auto rank = app::make_cuda_rank({}, 0, 0, nullptr, rows).value();
    return rank->machine().ops.numeric_class();
  };
  EXPECT_NE(class_with(app::read_gemm_table(path).value()), class_with(""));
  EXPECT_FALSE(app::read_gemm_table(folder_.file("missing")));
  std::ofstream(path, std::ios::app) << "nn 8 x 8\n";
  const Result<std::string> bad = app::read_gemm_table(path);
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code, Code::data);
  EXPECT_TRUE(bad.error().where.starts_with(path + ", line ")) << bad.error().where;
}

TEST_F(TuneCuda, keeps_away_from_anothers_table) {
  const std::string path = folder_.file("other");
  std::ofstream(path) << "library 1 device another\n";
  TuneFile file = TuneFile::open(path).value();
  const RunSpec spec = run_spec(DType::bf16, 1);
  const Result<void> tuned = app::tune_cuda({.spec = spec}, file, kRules);
  ASSERT_FALSE(tuned);
  EXPECT_EQ(tuned.error().code, Code::usage);
  EXPECT_EQ(read(path), "library 1 device another\n");
}

TEST_F(TuneCuda, says_what_a_full_device_has_no_room_for) {
  TuneFile file = TuneFile::open(folder_.file("full")).value();
  const RunSpec spec = run_spec(DType::bf16, 1);
  emulator::fail_next_allocation();
  const Result<void> tuned = app::tune_cuda({.spec = spec}, file, kRules);
  ASSERT_FALSE(tuned);
  EXPECT_EQ(tuned.error().code, Code::does_not_fit);
}

}  // namespace
}  // namespace elaswave::test
