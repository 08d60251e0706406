#include "model/kernels/gemm_tune_cuda.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "io/base/bf16.h"
#include "io/base/clock.h"
#include "io/base/hash.h"
#include "io/base/philox.h"
#include "parallel/device/buffer.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::kernels::cuda {

namespace {

// Random numbers, because the clock of a GPU follows what its multipliers switch; prime, so that
// rows do not repeat one another.
constexpr std::int64_t kPatternElems = 65'537;
constexpr std::int64_t kMostSets = 16;
constexpr std::int64_t kDigestElems = 1 << 24;  // of one range

/// kPatternElems numbers in [-1, 1), as they are stored.
std::vector<std::byte> pattern(DType dtype) {
  const RandomStream stream = random_stream(1, RandomUse::test);
  std::vector<std::byte> bytes(static_cast<std::size_t>(kPatternElems * size_bytes(dtype)));
  for (std::int64_t i = 0; i < kPatternElems; ++i) {
    const float value = 2 * uniform01(random_word(stream, static_cast<std::uint64_t>(i))) - 1;
    if (dtype == DType::f32)
      reinterpret_cast<float*>(bytes.data())[i] = value;
    else
      reinterpret_cast<bf16*>(bytes.data())[i] = to_bf16(value);
  }
  return bytes;
}

/// A, B and C of a product in memory of their own.
class Operands {
 public:
  Operands(device::CudaStream& stream, const GemmChoice& product) : shape_(product.shape) {
    const auto& [form, M, N, K, inputs, result, epilogue] = shape_;
    const bool a_transposed = form == ProductForm::tn, b_transposed = form == ProductForm::nt;
    a_ = {stream, {nullptr, inputs, a_transposed ? K : M, a_transposed ? M : K, product.a_stride}};
    b_ = {stream, {nullptr, inputs, b_transposed ? N : K, b_transposed ? K : N, product.b_stride}};
    c_ = {stream, {nullptr, result, M, N, product.c_stride}};
    if (epilogue == Epilogue::dgelu) {
      slopes_at_ = {stream, {nullptr, result, M, N, product.slope_stride}};
      slopes_at_.fill(stream);
    }
    a_.fill(stream);
    b_.fill(stream);
  }
  static std::int64_t bytes(const GemmChoice& product) {
    const ProductShape& shape = product.shape;
    const std::int64_t a_rows = shape.form == ProductForm::tn ? shape.K : shape.M;
    const std::int64_t b_rows = shape.form == ProductForm::nt ? shape.N : shape.K;
    return (a_rows * product.a_stride + b_rows * product.b_stride) * size_bytes(shape.inputs) +
           shape.M * (product.c_stride + product.slope_stride) * size_bytes(shape.result);
  }

  Factors factors() { return cuda::factors(shape_.form, a_.view, b_.view); }
  Mat c() { return c_.view; }
  ConstMat slopes_at() { return slopes_at_.view; }
  std::span<const float> c_words() { return c_.memory.as<float>(); }

 private:
  struct Matrix {
    Matrix() = default;
    /// `where`: all but the memory.
    Matrix(device::CudaStream& stream, const Mat& where)
        : memory(stream.device(),
                 round_up(where.rows * where.stride * size_bytes(where.dtype), 256)),
          view(where) {
      view.data = memory.data();
    }
    /// Once, then what is there is copied behind itself.
    void fill(device::CudaStream& stream) {
      const std::vector<std::byte> numbers = pattern(view.dtype);
      std::int64_t filled = std::min(std::ssize(numbers), memory.size_bytes());
      stream.copy(memory.data(), numbers.data(), filled);
      while (filled < memory.size_bytes()) {
        const std::int64_t more = std::min(filled, memory.size_bytes() - filled);
        stream.copy(memory.data() + filled, memory.data(), more);
        filled += more;
      }
    }

    device::Buffer memory;
    Mat view;
  };

  ProductShape shape_;
  Matrix a_, b_, c_, slopes_at_;
};

/// One product on a device, with whatever algorithm.
class Trial {
 public:
  Trial(const CudaContext& context, Gemm& gemm, const GemmChoice& product, const TuneRules& rules)
      : context_(context),
        gemm_(gemm),
        rules_(rules),
        shape_(product.shape),
        watch_(context.stream.stopwatch(clock_)) {
    const std::int64_t sets = std::clamp<std::int64_t>(
        ceil_div(rules.rotated_bytes, Operands::bytes(product)), 1, kMostSets);
    for (std::int64_t set = 0; set < sets; ++set) sets_.emplace_back(context.stream, product);
    if (product.shape.epilogue == Epilogue::bias) {
      const std::vector<float> bias(static_cast<std::size_t>(product.shape.N), 0.5f);
      bias_ = device::Array<float>(context.stream.device(), product.shape.N);
      context.stream.copy(bias_.span().data(), bias.data(), bias_.size_bytes());
    }
    context.stream.synchronize();
  }

  /// Seconds of one product. One more goes ahead, so that the device has work when the clock
  /// starts.
  double seconds(std::int64_t count) {
    multiply();
    watch_->clear();
    watch_->stamp();
    for (std::int64_t i = 0; i < count; ++i) multiply();
    watch_->stamp();
    context_.stream.synchronize();
    return 1e-9 * static_cast<double>(watch_->at(1)) / static_cast<double>(count);
  }

  bool repeats() {
    std::vector<std::uint64_t> digests(static_cast<std::size_t>(rules_.repeats));
    for (std::uint64_t& one : digests) one = digest();
    return std::ranges::all_of(digests, [&](std::uint64_t one) { return one == digests.front(); });
  }

 private:
  void multiply() { multiply(sets_[next_++ % sets_.size()]); }
  void multiply(Operands& set) {
    if (shape_.epilogue == Epilogue::dgelu)
      (void)gemm_.multiply_gelu_gradient(context_, set.factors(), set.c(), set.slopes_at());
    else
      gemm_.multiply(context_, set.factors(), set.c(), bias_.span());
  }

  std::uint64_t digest() {
    Operands& set = sets_.front();
    multiply(set);
    std::vector<std::span<const float>> ranges;
    for (std::span<const float> rest = set.c_words(); !rest.empty();) {
      ranges.push_back(rest.first(std::min<std::size_t>(rest.size(), kDigestElems)));
      rest = rest.subspan(ranges.back().size());
    }
    std::vector<std::uint64_t> keys(ranges.size()), sums(ranges.size());
    cuda::digest(context_, ranges, keys, sums);
    context_.stream.synchronize();
    std::uint64_t hash = 0;
    for (const std::uint64_t sum : sums) hash = combine64(hash, sum);
    return hash;
  }

  const CudaContext& context_;
  Gemm& gemm_;
  const TuneRules& rules_;
  const ProductShape shape_;
  const RealClock clock_;  // not read: the device has a time of its own
  std::unique_ptr<device::Stopwatch> watch_;
  std::vector<Operands> sets_;
  device::Array<float> bias_;
  std::size_t next_ = 0;
};

struct Candidate {
  AlgorithmWords words{};
  bool repeats = true;
  std::int64_t count = 1;       // products of a round
  std::vector<double> seconds;  // of a product, by round

  double median() const {
    std::vector<double> sorted = seconds;
    std::ranges::sort(sorted);
    return sorted[sorted.size() / 2];
  }
};

/// The first choice, then what else the library names and can run with all strides.
std::vector<Candidate> candidates_of(Gemm& gemm, std::span<const GemmChoice> variants,
                                     const TuneRules& rules, TunedProduct& tuned) {
  const GemmChoice& product = variants.front();
  std::vector<Candidate> list = {{.words = product.algorithm}};
  for (const AlgorithmWords& words : gemm.candidates(product, rules.candidates)) {
    if (std::ranges::any_of(list, [&](const Candidate& one) { return one.words == words; }))
      continue;
    const bool possible = std::ranges::all_of(
        variants, [&](const GemmChoice& variant) { return gemm.take(variant, words); });
    if (possible)
      list.push_back({.words = words});
    else
      ++tuned.refused;
  }
  return list;
}

/// Takes it and looks whether it repeats its bits. False when the library names an algorithm and
/// then refuses to run it.
template <typename Take>
bool runs(const CudaContext& context, Trial& trial, Candidate& one, const Take& take) {
  try {
    if (!take()) return false;
    one.repeats = trial.repeats();
    return true;
  } catch (const device::DeviceLost&) {
    context.stream.synchronize();  // throws again where the device is gone
    return false;
  }
}

}  // namespace

bool TunedProduct::wants_row(double row_share) const {
  return best_seconds > 0 && (!first_repeats || best_seconds <= row_share * first_seconds);
}

std::string tuned_lines(const TunedProduct& tuned, double row_share) {
  const double flops = 2.0 * static_cast<double>(tuned.shape.M) *
                       static_cast<double>(tuned.shape.N) * static_cast<double>(tuned.shape.K);
  const auto measured = [&](double seconds) {
    return fmt::format("{:.4f} ms, {:.1f} TFLOP/s", 1e3 * seconds, 1e-12 * flops / seconds);
  };
  std::string notes;
  if (!tuned.first_repeats) notes += ", WHICH DOES NOT REPEAT ITS BITS";
  if (tuned.unrepeatable > 0)
    notes += fmt::format("; {} left out: bits differ from time to time", tuned.unrepeatable);
  if (tuned.refused > 0) notes += fmt::format("; {} left out: refused", tuned.refused);
  if (tuned.wants_row(row_share))
    return fmt::format("{} : {}  # {}; the library's first: {}{}\n", describe(tuned.shape),
                       describe(tuned.best), measured(tuned.best_seconds),
                       measured(tuned.first_seconds), notes);
  return fmt::format("# {} : the library's first stays: {}; {} tried{}\n", describe(tuned.shape),
                     measured(tuned.first_seconds), tuned.tried, notes);
}

TunedProduct tune_product(const CudaContext& context, Gemm& gemm,
                          std::span<const GemmChoice> variants, const TuneRules& rules) {
  EW_CHECK(!variants.empty() && variants.front().aligned, "nothing to tune");
  const GemmChoice& product = variants.front();
  TunedProduct tuned{.shape = product.shape};
  std::vector<Candidate> list = candidates_of(gemm, variants, rules, tuned);
  Trial trial(context, gemm, product, rules);
  tuned.refused += static_cast<int>(std::erase_if(list, [&](Candidate& one) {
    return !runs(context, trial, one, [&] { return gemm.take(product, one.words); });
  }));
  EW_CHECK(!list.empty() && list.front().words == product.algorithm, "{} ran before",
           describe(product.shape));
  tuned.tried = static_cast<int>(list.size());
  for (Candidate& one : list) {
    (void)gemm.take(product, one.words);
    constexpr std::int64_t kMostProducts = 1000;
    one.count = std::clamp<std::int64_t>(
        static_cast<std::int64_t>(rules.round_seconds / std::max(trial.seconds(2), 1e-7)), 1,
        kMostProducts);
  }
  for (int round = 0; round < rules.rounds; ++round)
    for (Candidate& one : list) {
      (void)gemm.take(product, one.words);
      one.seconds.push_back(trial.seconds(one.count));
    }
  tuned.first_seconds = list.front().median();
  tuned.first_repeats = list.front().repeats;
  for (const Candidate& one : list) {
    tuned.unrepeatable += one.repeats ? 0 : 1;
    if (!one.repeats || (tuned.best_seconds > 0 && one.median() >= tuned.best_seconds)) continue;
    tuned.best_seconds = one.median();
    tuned.best = one.words;
  }
  if (tuned.best_seconds > 0) (void)gemm.take(product, tuned.best);
  return tuned;
}

}  // namespace elaswave::kernels::cuda
