// The embedding in slices: rows of the vocabulary, ranges of tokens. Put together they are
// EmbeddingForward and EmbeddingBackward; each alone is the scalar definition, bit by bit.
#include <iostream>

#include "io/base/hash.h"
#include "tests/reference/kernel_test.h"

namespace elaswave::kernels {
namespace {

struct Case {
  std::int64_t B = 3, T = 13, C = 37, V = 11, positions = 20;
  float rate = 0;
  std::int64_t N() const { return B * T; }
};

// Tokens 5 and 10 never occur; negative zeros among the weights.
struct Embedding {
  Embedding(const Case& shape, DType storage)
      : c(shape),
        dtype(storage),
        streams(sample_streams(c.B, 3)),
        wte(stored(random_floats(c.V * c.C, 1), dtype)),
        wpe(stored(random_floats(c.positions * c.C, 2), dtype)),
        dx(stored(random_floats(c.N() * c.C, 4), dtype)) {
    for (std::int64_t i = 0; i < c.N(); ++i) {
      const auto id = static_cast<std::int32_t>(mix64(static_cast<std::uint64_t>(i)) % 10);
      ids.push_back(id == 5 ? 4 : id);
    }
    for (std::size_t i = 0; i < wte.size(); i += 5) wte[i] = -0.0f;
    for (std::size_t i = 0; i < wpe.size(); i += 3) wpe[i] = -0.0f;
  }
  Dropout dropout() const { return {c.rate, streams}; }
  float factor(std::int64_t row, std::int64_t col) const {
    return dropout_factor(dropout(), row / c.T, row % c.T * c.C + col);
  }

  // The masked gradient.
  float masked(std::int64_t row, std::int64_t col) const {
    return stored(dx[static_cast<std::size_t>(row * c.C + col)] * factor(row, col), dtype);
  }

  Case c;
  DType dtype;
  std::vector<RandomStream> streams;
  std::vector<std::int32_t> ids;
  std::vector<float> wte, wpe, dx;
};

using Cuts = std::vector<std::int64_t>;
const std::vector<Cuts> kVocabularyCuts = {
    {0, 11}, {0, 4, 8, 11}, {0, 1, 9, 10, 11}, {0, 5, 6, 11}};
const std::vector<Cuts> kRowCuts = {{0, 39}, {0, 19, 39}, {0, 5, 17, 18, 18, 30, 39}};
const float kRates[] = {0.0f, 0.3f};

class EmbeddingSlicesTest : public StorageTest {
 protected:
  // out = the sum of the slices' rows in slice order, as a tensor-parallel replica adds them.
  std::vector<float> look_up(const Embedding& e, const Cuts& cuts, DType term_dtype) {
    const Padded table(place(), e.wte, e.c.V, e.c.C, 1);
    const DeviceVector<std::int32_t> ids(stream(), e.ids);
    std::vector<float> sum;
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      Padded out({stream(), term_dtype}, e.c.N(), e.c.C, 2);
      ops().embedding_lookup(stream(), {ids, table.view().rows_from(cuts[i], cuts[i + 1] - cuts[i]),
                                        cuts[i], out.mat()});
      EXPECT_TRUE(out.guards_intact());
      const std::vector<float> term = out.values();
      for (std::int64_t row = 0; row < e.c.N(); ++row) {
        const std::int64_t id = e.ids[static_cast<std::size_t>(row)];
        const bool mine = id >= cuts[i] && id < cuts[i + 1];
        for (std::int64_t col = 0; col < e.c.C; ++col)
          EXPECT_EQ(term[static_cast<std::size_t>(row * e.c.C + col)],
                    mine ? e.wte[static_cast<std::size_t>(id * e.c.C + col)] : 0.0f)
              << "token " << id << " from " << cuts[i] << " on";
      }
      if (sum.empty())
        sum = term;
      else
        for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += term[j];
    }
    return sum;
  }
};

EW_FOR_STORAGE_TYPES(EmbeddingSlicesTest);

TEST_P(EmbeddingSlicesTest, forward_is_the_whole) {
  for (const float rate : kRates) {
    const Embedding e({.rate = rate}, dtype());
    const Case& c = e.c;
    const Padded wte(place(), e.wte, c.V, c.C), wpe(place(), e.wpe, c.positions, c.C, 1);
    const DeviceVector<std::int32_t> ids(stream(), e.ids);
    Padded whole(place(), c.N(), c.C, 2);
    ops().embedding_forward(stream(), {ids, wte.view(), wpe.view(), c.T, e.dropout(), whole.mat()});
    for (const Cuts& vocabulary : kVocabularyCuts) {
      const std::vector<float> looked_up = look_up(e, vocabulary, dtype());
      EXPECT_TRUE(same_bits(look_up(e, vocabulary, DType::f32), looked_up));
      const Padded tokens(place(), looked_up, c.N(), c.C);
      for (const Cuts& rows : kRowCuts) {
        Padded out(place(), c.N(), c.C, 2), in_place(place(), looked_up, c.N(), c.C);
        for (std::size_t i = 0; i + 1 < rows.size(); ++i) {
          const std::int64_t begin = rows[i], count = rows[i + 1] - rows[i];
          const Mat own = in_place.mat().rows_from(begin, count);
          ops().embedding_positions(
              stream(), {tokens.view().rows_from(begin, count), wpe.view(), c.T, begin, e.dropout(),
                         out.mat().rows_from(begin, count)});
          ops().embedding_positions(stream(), {own, wpe.view(), c.T, begin, e.dropout(), own});
        }
        EXPECT_TRUE(same_bits(out.values(), whole.values())) << rate;
        EXPECT_TRUE(same_bits(in_place.values(), whole.values())) << rate;
        EXPECT_TRUE(out.guards_intact() && in_place.guards_intact());
      }
    }
  }
}

// The contract in scalar code: masked rows [begin, end) of position t added in f32 in order, one
// rounding; `absent` where there is none.
std::vector<std::int64_t> position_sums(const Embedding& e, std::int64_t begin, std::int64_t end,
                                        std::int64_t absent) {
  std::vector<std::int64_t> sums;
  for (std::int64_t t = 0; t < e.c.positions; ++t)
    for (std::int64_t col = 0; col < e.c.C; ++col) {
      float sum = 0;
      bool any = false;
      for (std::int64_t row = begin; row < end; ++row) {
        if (row % e.c.T != t) continue;
        const float g = e.masked(row, col);
        sum = any ? sum + g : g, any = true;
      }
      sums.push_back(any ? std::llrint(static_cast<double>(sum) * 0x1p40) : absent);
    }
  return sums;
}

TEST_P(EmbeddingSlicesTest, position_gradients_of_row_ranges) {
  std::int64_t ranges = 0;
  for (const float rate : kRates) {
    const Embedding e({.rate = rate}, dtype());
    const Case& c = e.c;
    std::vector<float> expected;
    for (std::int64_t j = 0; j < c.N() * c.C; ++j) expected.push_back(e.masked(j / c.C, j % c.C));
    expect_same_for_streams([&](Stream& stream, std::int64_t) {
      const Padded dx(on(stream), e.dx, c.N(), c.C);
      for (const Cuts& rows : kRowCuts) {
        Padded masked(on(stream), c.N(), c.C, 1), in_place(on(stream), e.dx, c.N(), c.C);
        for (std::size_t i = 0; i + 1 < rows.size(); ++i, ++ranges) {
          const std::int64_t begin = rows[i], count = rows[i + 1] - rows[i];
          const Mat own = in_place.mat().rows_from(begin, count);
          Sums wpe(stream, c.positions * c.C, 12345), again(stream, c.positions * c.C, 7);
          ops().embedding_positions_backward(
              stream, {dx.view().rows_from(begin, count), c.T, begin, e.dropout(), wpe.sink(true),
                       masked.mat().rows_from(begin, count)});
          ops().embedding_positions_backward(
              stream, {own, c.T, begin, e.dropout(), again.sink(false), own});
          std::vector<std::int64_t> sums = position_sums(e, begin, begin + count, 0);
          EXPECT_EQ(wpe.exact(), sums) << begin << "+" << count;
          for (std::int64_t& sum : sums) sum += 7;
          EXPECT_EQ(again.exact(), sums) << begin << "+" << count;
          EXPECT_FALSE(wpe.raised() || again.raised());
        }
        EXPECT_EQ(masked.values(), expected);
        EXPECT_TRUE(same_bits(in_place.values(), masked.values()));
        EXPECT_TRUE(masked.guards_intact() && in_place.guards_intact());
      }
      return bytes_of(expected);
    });
  }
  std::cout << ranges << " ranges of rows\n";
}

// Slices of the table and one range of all rows: the sums of EmbeddingBackward.
TEST_P(EmbeddingSlicesTest, backward_is_the_whole) {
  std::int64_t slices = 0;
  for (const float rate : kRates) {
    const Embedding e({.rate = rate}, dtype());
    const Case& c = e.c;
    expect_same_for_streams([&](Stream& stream, std::int64_t) {
      const DeviceVector<std::int32_t> ids(stream, e.ids);
      const Padded dx(on(stream), e.dx, c.N(), c.C);
      Sums wte(stream, c.V * c.C, 12345), wpe(stream, c.positions * c.C, 12345);
      ops().embedding_backward(stream,
                               {ids, dx.view(), c.T, e.dropout(), wte.sink(true), wpe.sink(true)});
      Padded masked(on(stream), c.N(), c.C, 1);
      Sums positions(stream, c.positions * c.C, 12345);
      ops().embedding_positions_backward(
          stream, {dx.view(), c.T, 0, e.dropout(), positions.sink(true), masked.mat()});
      EXPECT_EQ(positions.exact(), wpe.exact());
      for (const Cuts& cuts : kVocabularyCuts) {
        std::vector<std::int64_t> glued, doubled;
        for (std::size_t i = 0; i + 1 < cuts.size(); ++i, ++slices) {
          Sums part(stream, (cuts[i + 1] - cuts[i]) * c.C, 12345);
          const auto add = [&](bool overwrite, std::vector<std::int64_t>& all) {
            ops().embedding_lookup_backward(stream,
                                            {ids, masked.view(), cuts[i], part.sink(overwrite)});
            const auto sums = part.exact();
            all.insert(all.end(), sums.begin(), sums.end());
          };
          add(true, glued);
          add(false, doubled);
          EXPECT_FALSE(part.raised());
        }
        EXPECT_EQ(glued, wte.exact());
        for (std::int64_t& sum : glued) sum *= 2;
        EXPECT_EQ(doubled, glued);
      }
      return bytes_of(wte.exact(), wpe.exact());
    });
  }
  std::cout << slices << " slices of the vocabulary\n";
}

// A gradient out of range is reported by the slice that has its token, and by the range that has
// its row.
TEST_P(EmbeddingSlicesTest, range_flags_stay_with_their_slice) {
  Embedding e({}, dtype());
  const Case& c = e.c;
  e.dx[static_cast<std::size_t>(20 * c.C)] = INFINITY;
  const std::int64_t id = e.ids[20];
  const DeviceVector<std::int32_t> ids(stream(), e.ids);
  const Padded dx(place(), e.dx, c.N(), c.C);
  for (std::int64_t token = 0; token < c.V; ++token) {
    Sums part(stream(), c.C);
    ops().embedding_lookup_backward(stream(), {ids, dx.view(), token, part.sink(true)});
    EXPECT_EQ(part.raised(), token == id) << token;
  }
  for (std::int64_t row = 0; row < c.N(); ++row) {
    Sums part(stream(), c.positions * c.C);
    Padded masked(place(), 1, c.C);
    ops().embedding_positions_backward(
        stream(), {dx.view().rows_from(row, 1), c.T, row, {}, part.sink(true), masked.mat()});
    EXPECT_EQ(part.raised(), row == 20) << row;
  }
}

}  // namespace
}  // namespace elaswave::kernels
