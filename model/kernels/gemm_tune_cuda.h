// Measures which of the library's algorithms is the fastest for a product: what `elaswave tune`
// does on a GPU. Candidates come from the same question, under the same conditions, as the choice
// of a run without a table (gemm_cuda.h), and are timed through the same call as training makes.
// THREADS: those of the context.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "model/kernels/gemm_cuda.h"

namespace elaswave::kernels::cuda {

struct TuneRules {
  int candidates = 32;  // algorithms asked for
  int rounds = 7;       // the median of them counts; candidates take turns in each
  int repeats = 20;     // that must give the same bits
  // A row is worth it when the product takes at most this share of what the first choice takes.
  double row_share = 0.98;
  double round_seconds = 2e-3;  // of one candidate
  // Operands are copied until they are at least so much, and take turns: none is found in the
  // device's cache (50 MiB on Hopper) that a step would not find there.
  std::int64_t rotated_bytes = 256 << 20;
};

/// What was found out about one shape.
struct TunedProduct {
  ProductShape shape;
  int tried = 0;              // algorithms that were timed, the first choice among them
  int unrepeatable = 0;       // did not give the same bits every time
  int refused = 0;            // cannot run, or not with all of the strides
  double first_seconds = 0;   // what the library would choose
  bool first_repeats = true;  // with the same bits
  double best_seconds = 0;    // the fastest that gives the same bits every time; 0: there is none
  AlgorithmWords best{};      // its words

  /// Is a row better than none?
  bool wants_row(double row_share) const;
};
/// The lines of the table for it: a row with what was measured as its comment, or a comment alone.
/// Both begin with describe(shape), and end with a line feed.
std::string tuned_lines(const TunedProduct& tuned, double row_share);

/// `variants`: one product as it is multiplied with different strides, all aligned; the first is
/// measured, all must be possible. Allocates its operands for as long as it runs; leaves `gemm`
/// with the winner. Throws DeviceLost, OutOfMemory.
TunedProduct tune_product(const CudaContext& context, Gemm& gemm,
                          std::span<const GemmChoice> variants, const TuneRules& rules);

}  // namespace elaswave::kernels::cuda
