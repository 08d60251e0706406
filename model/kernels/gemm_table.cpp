#include "model/kernels/gemm_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <utility>

#include "io/base/hash.h"

namespace elaswave::kernels {

namespace {

constexpr std::string_view kFormNames[] = {"nn", "nt", "tn"};
constexpr std::string_view kEpilogueNames[] = {"none", "bias", "dgelu"};
constexpr std::string_view kTypeNames[] = {name(DType::f32), name(DType::bf16)};

// Reads a line word by word; `good` turns false at the first word that is not as expected.
class Words {
 public:
  explicit Words(std::string_view line) : rest_(line) {}

  std::string_view next() {
    skip_spaces();
    const std::string_view word = rest_.substr(0, rest_.find_first_of(" \t"));
    rest_.remove_prefix(word.size());
    return word;
  }
  std::string_view rest() {
    skip_spaces();
    return rest_;
  }
  bool at_end() {
    skip_spaces();
    return rest_.empty();
  }

  void expect(std::string_view word) {
    if (next() != word) good = false;
  }
  template <typename T>
  T number(int base = 10) {
    const std::string_view word = next();
    T value{};
    const auto [end, problem] =
        std::from_chars(word.data(), word.data() + word.size(), value, base);
    if (word.empty() || problem != std::errc() || end != word.data() + word.size()) good = false;
    return value;
  }
  /// The position of the next word among `names`.
  template <typename Enum, std::size_t count>
  Enum one_of(const std::string_view (&names)[count]) {
    const auto* const found = std::find(names, names + count, next());
    if (found == names + count) good = false;
    return static_cast<Enum>(found == names + count ? 0 : found - names);
  }

  bool good = true;

 private:
  void skip_spaces() {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t"), rest_.size()));
  }

  std::string_view rest_;
};

struct Section {
  std::uint64_t library = 0;
  std::string_view device;
  auto operator<=>(const Section&) const = default;
};
using Row = std::pair<ProductShape, AlgorithmWords>;

std::optional<Section> read_section(Words words) {
  Section section;
  words.expect("library");
  section.library = words.number<std::uint64_t>();
  words.expect("device");
  section.device = words.rest();
  section.device = section.device.substr(0, section.device.find_last_not_of(" \t") + 1);
  if (!words.good || section.device.empty()) return std::nullopt;
  return section;
}

std::optional<Row> read_row(Words words) {
  Row row;
  ProductShape& shape = row.first;
  shape.form = words.one_of<ProductForm>(kFormNames);
  shape.M = words.number<std::int64_t>();
  words.expect("x");
  shape.N = words.number<std::int64_t>();
  words.expect("x");
  shape.K = words.number<std::int64_t>();
  shape.inputs = words.one_of<DType>(kTypeNames);
  words.expect("->");
  shape.result = words.one_of<DType>(kTypeNames);
  shape.epilogue = words.one_of<Epilogue>(kEpilogueNames);
  words.expect(":");
  for (std::uint64_t& word : row.second) word = words.number<std::uint64_t>(16);
  if (!words.good || !words.at_end() || shape.M <= 0 || shape.N <= 0 || shape.K <= 0)
    return std::nullopt;
  return row;
}

tl::unexpected<Error> bad_line(std::int64_t line, std::string_view text, std::string why) {
  return fail({Code::data, fmt::format("bad line in the table of matrix products: {}", text),
               fmt::format("line {}", line), std::move(why), "print the table anew"});
}

}  // namespace

std::string describe(const ProductShape& shape) {
  return fmt::format("{} {} x {} x {} {} -> {} {}", kFormNames[static_cast<int>(shape.form)],
                     shape.M, shape.N, shape.K, name(shape.inputs), name(shape.result),
                     kEpilogueNames[static_cast<int>(shape.epilogue)]);
}

std::string describe(const AlgorithmWords& words) {
  return fmt::format("{:016x}", fmt::join(words, " "));
}

std::uint64_t hash_choice(std::uint64_t hash, const ProductShape& shape,
                          const AlgorithmWords& words) {
  for (const std::int64_t value :
       {static_cast<std::int64_t>(shape.form), shape.M, shape.N, shape.K,
        static_cast<std::int64_t>(shape.inputs), static_cast<std::int64_t>(shape.result),
        static_cast<std::int64_t>(shape.epilogue)})
    hash = combine64(hash, static_cast<std::uint64_t>(value));
  for (const std::uint64_t word : words) hash = combine64(hash, word);
  return hash;
}

Result<GemmTable> GemmTable::parse(std::string_view text, std::uint64_t library,
                                   std::string_view device) {
  GemmTable table;
  std::set<Section> sections;
  std::set<ProductShape> shapes;  // of the section that is being read
  const Section wanted{library, device};
  Section section;
  for (std::int64_t line = 1; !text.empty(); ++line) {
    const std::string_view whole = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(whole.size() + 1, text.size()));
    const std::string_view content = whole.substr(0, whole.find('#'));
    if (Words(content).at_end()) continue;
    if (Words(content).next() == "library") {
      const std::optional<Section> next = read_section(Words(content));
      if (!next) return bad_line(line, whole, "expected: library NUMBER device NAME");
      if (!sections.insert(*next).second)
        return bad_line(line, whole, "the section is there already");
      section = *next;
      shapes.clear();
      continue;
    }
    const std::optional<Row> row = read_row(Words(content));
    if (!row)
      return bad_line(line, whole,
                      "expected: FORM M x N x K TYPE -> TYPE EPILOGUE : eight hexadecimal words");
    if (sections.empty()) return bad_line(line, whole, "a row before the first library line");
    if (!shapes.insert(row->first).second)
      return bad_line(line, whole, "a second row for a product");
    if (section == wanted) table.rows_.insert(*row);
  }
  return table;
}

const AlgorithmWords* GemmTable::find(const ProductShape& shape) const {
  const auto found = rows_.find(shape);
  return found == rows_.end() ? nullptr : &found->second;
}

std::uint64_t GemmTable::hash() const {
  std::uint64_t hash = combine64(kGolden64, rows_.size());
  for (const auto& [shape, words] : rows_) hash = hash_choice(hash, shape, words);
  return hash;
}

}  // namespace elaswave::kernels
