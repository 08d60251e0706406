// Which algorithm of the matrix library computes which product: rows measured once on a kind of
// device (`elaswave tune` prints them) and compiled in, because nothing is timed when a run starts.
// Pure: the algorithm of a product follows from the library's version, the device's name and the
// product's shape alone, so every rank that agrees on those agrees on the bits.
//
// The text is a list of lines; `#` begins a comment.
//   library 130100 device NVIDIA H200
//   nt 1024 x 3072 x 768 bf16 -> bf16 bias : 0123456789abcdef ... (8 words)
// A `library` line (number as the library reports it, then the device's name to the end of the
// line) begins a section; each further line is one product M x N x K with its algorithm, the words
// of the library's own structure in hexadecimal.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "io/base/error.h"
#include "io/base/types.h"

namespace elaswave::kernels {

/// nn: A is M x K, B is K x N. nt: B is stored N x K. tn: A is stored K x M. All row-major.
enum class ProductForm : std::uint8_t { nn, nt, tn };

/// What the product does to its result before it stores it. dgelu: multiplies it with the slope of
/// GELU at another matrix. Values stay: they enter hashes.
enum class Epilogue : std::uint8_t { none = 0, bias = 1, dgelu = 2 };

/// What the choice of an algorithm may look at.
struct ProductShape {
  ProductForm form = ProductForm::nn;
  std::int64_t M = 0, N = 0, K = 0;
  DType inputs = DType::f32;  // of A and B
  DType result = DType::f32;
  Epilogue epilogue = Epilogue::none;
  auto operator<=>(const ProductShape&) const = default;
};
/// "nt 1024 x 3072 x 768 bf16 -> bf16 bias", as in the table.
std::string describe(const ProductShape& shape);

/// The library's own description of an algorithm, meaningful to one version of it only.
using AlgorithmWords = std::array<std::uint64_t, 8>;
/// "0123456789abcdef ...": the words as in the table.
std::string describe(const AlgorithmWords& words);

/// Folds one product and its algorithm into a hash.
std::uint64_t hash_choice(std::uint64_t hash, const ProductShape& shape,
                          const AlgorithmWords& words);

/// The rows of one library version and device.
class GemmTable {
 public:
  GemmTable() = default;

  /// The section for (library, device); empty when there is none. Every line of the text is
  /// checked, whichever section it is in. Errors: Code::data with the number of the line.
  static Result<GemmTable> parse(std::string_view text, std::uint64_t library,
                                 std::string_view device);

  /// The algorithm for a product, or nullptr: the library's first choice then.
  const AlgorithmWords* find(const ProductShape& shape) const;
  /// A function of the rows, not of their order in the text.
  std::uint64_t hash() const;
  bool empty() const { return rows_.empty(); }

 private:
  std::map<ProductShape, AlgorithmWords> rows_;
};

/// The rows that come with this program.
std::string_view tuned_gemm_rows();

}  // namespace elaswave::kernels
