#include "model/spec/device_memory.h"

#include <algorithm>
#include <cmath>

namespace elaswave::spec {
namespace {

// Shapes of the kernels: where a file is named, its constants.
constexpr double kUnit = 256;                          // of an allocation (cuda_scratch.cpp)
constexpr double kBiasUnit = 1 << 18;                  // gemm_cuda.cpp
constexpr double kPieceRows = 128;                     // gemm_cuda.cpp, kPieceUnit
constexpr double kSumRows = 128;                       // gemm_cuda.h
constexpr double kPartials = 264;                      // norm_cuda.cu
constexpr double kFewestRows = 16;                     // norm_cuda.cu
constexpr double kListSlots = 4;                       // cuda_scratch.h, kSlots
constexpr double kUpdateBytes = 88, kPieceBytes = 24;  // optimizer_cuda.cu: of a list's row
constexpr double kDigestedKinds = 3;                   // optimizer_cuda.cu: of a block
constexpr double kStreamBytes = 16;                    // RandomStream
constexpr double kStatsBytes = 12;                     // kernels::LogitStats
constexpr double kFloat = sizeof(float);

double up(double bytes, double unit) {
  return std::ceil(bytes / unit) * unit;
}

/// In doubles, which hold whole numbers below 2^53 and do not overflow above.
class Calls {
 public:
  explicit Calls(const DeviceCalls& calls)
      : calls_(calls),
        N_(static_cast<double>(calls.shape.tokens)),
        C_(static_cast<double>(calls.shape.hidden)),
        t_(static_cast<double>(calls.shape.slices)),
        heads_(static_cast<double>(calls.shape.heads) / t_),
        vocab_(std::ceil(static_cast<double>(calls.shape.vocab) / t_)),
        chunk_(std::min(N_, static_cast<double>(calls.loss_chunk_tokens))),
        digested_(kDigestedKinds * static_cast<double>(calls.owned_blocks)),
        element_(static_cast<double>(size_bytes(calls.storage))) {}

  double logits() const {
    const auto stride = static_cast<double>(logits_stride(calls_.shape.vocab));
    return whole_head() ? up(chunk_ * stride * kFloat, kUnit) : 0;
  }
  double workspaces() const {
    double bytes = 2 * N_ * kFloat;  // ids and targets
    for (const double one : {tokens(), masked_gradient(), partial(), statistics(), attention(),
                             products(), sink(), ends(), list(), ends()})
      bytes += up(one, kUnit);
    return bytes;
  }
  double lists() const { return kListSlots * (up(list(), kUnit) + up(ends(), kUnit)); }

 private:
  bool whole_head() const { return calls_.kinds.head && t_ == 1; }

  double tokens() const {
    if (!calls_.kinds.embedding) return 0;
    return kFloat * (2 + 2 * vocab_ + 3 * std::min(N_, vocab_) + 2 * N_);
  }
  double masked_gradient() const {
    return calls_.kinds.embedding && calls_.dropout && t_ == 1 ? N_ * C_ * element_ : 0;
  }
  double partial() const {
    double bytes = ends();
    if (calls_.kinds.blocks || calls_.kinds.head) {
      const auto rows = static_cast<double>(calls_.shape.own_rows);
      const double blocks = std::ceil(rows / std::max(kFewestRows, std::ceil(rows / kPartials)));
      bytes = std::max(bytes, blocks * 2 * C_ * kFloat);
    }
    if (calls_.kinds.blocks) bytes = std::max(bytes, std::ceil(N_ / kSumRows) * widest() * kFloat);
    return bytes;
  }
  double statistics() const { return whole_head() ? 2 * chunk_ * kStatsBytes : 0; }
  double attention() const {
    if (!calls_.kinds.blocks) return 0;
    const double context = N_ / static_cast<double>(calls_.samples);
    const bool library = calls_.storage == DType::bf16 && !calls_.dropout;
    return N_ * heads_ * kFloat + (library ? N_ * heads_ * context * element_ : 0);
  }
  double products() const {
    double row = calls_.kinds.blocks ? widest() * element_ : 0;  // of results, bytes
    if (calls_.kinds.head) row = std::max(row, vocab_ * kFloat);
    return row == 0 ? 0 : static_cast<double>(kProductWorkspaceBytes) + up(row, kBiasUnit);
  }
  double sink() const {
    if (!calls_.exact) return 0;
    double bytes = calls_.kinds.head ? piece(vocab_, C_) : 0;
    if (calls_.kinds.blocks)
      for (const double one : {piece(C_, 3 * C_ / t_), piece(C_ / t_, C_), piece(C_, 4 * C_ / t_),
                               piece(4 * C_ / t_, C_)})
        bytes = std::max(bytes, one);
    return bytes;
  }
  /// Of an M x N product, cut into rows.
  static double piece(double M, double N) {
    const double most =
        std::max(1.0, std::floor(static_cast<double>(kProductSinkBytes) / (N * kFloat)));
    return std::min(M, up(std::ceil(M / std::ceil(M / most)), kPieceRows)) * N * kFloat;
  }
  double list() const {
    const double streams = calls_.kinds.blocks && calls_.dropout
                               ? static_cast<double>(calls_.samples) * kStreamBytes
                               : 0;
    return std::max({kUpdateBytes / kDigestedKinds * digested_, kPieceBytes * digested_, streams});
  }
  /// A word for each digested range: lists of ends, results.
  double ends() const { return 8 * digested_; }
  double widest() const { return std::max(4 * C_ / t_, C_); }

  const DeviceCalls& calls_;
  double N_, C_, t_, heads_;  // heads of a slice
  double vocab_;              // rows of a slice
  double chunk_;              // rows of logits
  double digested_;           // ranges
  double element_;            // bytes
};

}  // namespace

DeviceScratch device_scratch(const DeviceCalls& calls) {
  const Calls all(calls);
  return {.logits = all.logits(), .workspaces = all.workspaces(), .lists = all.lists()};
}

double slice_messages(const DeviceCalls& calls) {
  const auto tokens = static_cast<double>(calls.shape.tokens);
  const auto slices = static_cast<double>(calls.shape.slices);
  const double rows = std::ceil(tokens / slices) * static_cast<double>(calls.shape.hidden) * kFloat;
  const double stats = std::min(tokens, static_cast<double>(calls.loss_chunk_tokens)) * kStatsBytes;
  return 2 * (slices - 1) * std::max(rows, stats);
}

}  // namespace elaswave::spec
