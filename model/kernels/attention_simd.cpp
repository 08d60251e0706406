// Causal attention of one head, forward and backward, in blocks of 64 queries by 64 keys: online
// softmax (Milakov and Gimelshein, arXiv 1805.02867), probabilities recomputed in backward from the
// stored log sum exp (Dao et al., arXiv 2205.14135). Operands are packed once into contiguous,
// zero-padded scratch; block products are register tiles. Compiled once per instruction set: rules
// in simd.h.
//
// Shape letters: q, k, v, o and their gradients are T x D; Dp is D rounded up to whole vectors.
// Order of sums, fixed by the shape: a score sums over D; an output and dq over key blocks in
// order; dk and dv over query blocks in order; within a block over positions in order.
#include "model/kernels/block_product_simd.h"
#include "model/kernels/dropout_simd.h"
#include "model/kernels/simd.h"
#include "model/kernels/simd_kernels.h"

namespace elaswave::kernels {
namespace {

/// How many keys of the block at `keys` a query attends to.
constexpr std::int64_t visible(std::int64_t query, std::int64_t keys) {
  return smaller(kBlock, query - keys + 1);
}

/// `a`, with `other` in the lanes that take no part.
ELASWAVE_INLINE F32 absent_as(F32 a, FullVector, float) {
  return a;
}
ELASWAVE_INLINE F32 absent_as(F32 a, PartVector part, float other) {
  return select(lanes_below(part.lanes), a, set1(other));
}
/// Zero from the vector after the one holding element count - 1 to the end of a row of kBlock.
ELASWAVE_INLINE void clear_rest(float* row, std::int64_t count) {
  for (std::int64_t c = round_up_to(count, kLanes); c < kBlock; c += kLanes)
    store(row + c, set1(0.0f));
}

/// Factors of the dropout mask for one query and `count` keys from `key` on.
ELASWAVE_INLINE void mask_row(const DropoutMask& mask, std::int64_t T, std::int64_t query,
                              std::int64_t key, std::int64_t count, float* factors) {
  const std::uint64_t first = mask.first_element + static_cast<std::uint64_t>(query * T + key);
  with_mask(mask, first, count,
            [&](std::int64_t c, F32 factor, auto) { store(factors + c, factor); });
}

/// Online softmax of one block of queries: largest score, sum of exponentials and weighted values
/// so far.
struct Softmax {
  float *largest, *sum, *factor;  // kBlock each
  float* scores;                  // kBlock x kBlock: scores in, (masked) exponentials out
  Rows out;                       // kBlock x Dp
};

/// Takes in the scores of the block at `keys` for `rows` queries from `query` on; rescales what is
/// there.
void absorb(const AttentionHeadForward& head, const Softmax& state, std::int64_t query,
            std::int64_t rows, std::int64_t keys) {
  const std::int64_t Dp = state.out.stride;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t count = visible(query + r, keys);
    F32 top = set1(state.largest[r]);
    const float* scores = state.scores + r * kBlock;
    sweep(count, [&](std::int64_t c, auto lanes) {
      top = max(top, absent_as(load(scores + c), lanes, -__builtin_inff()));
    });
    state.factor[r] = state.largest[r];
    state.largest[r] = reduce_max(top);
  }
  sweep(rows, [&](std::int64_t r, auto lanes) {
    const F32 factor = exp(load(state.factor + r, lanes) - load(state.largest + r, lanes));
    store(state.factor + r, factor, lanes);
    store(state.sum + r, load(state.sum + r, lanes) * factor, lanes);
  });
  alignas(64) float factors[kBlock];
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t count = visible(query + r, keys);
    float* scores = state.scores + r * kBlock;
    const F32 top = set1(state.largest[r]);
    F32 sum = set1(0.0f);
    if (head.mask != nullptr) mask_row(*head.mask, head.T, query + r, keys, count, factors);
    sweep(count, [&](std::int64_t c, auto lanes) {
      const F32 e = absent_as(exp(load(scores + c) - top), lanes, 0.0f);
      sum = sum + e;
      store(scores + c, head.mask == nullptr ? e : absent_as(e * load(factors + c), lanes, 0.0f));
    });
    clear_rest(scores, count);
    state.sum[r] += reduce_sum(sum);
    const F32 factor = set1(state.factor[r]);
    float* out = state.out.data + r * Dp;
    for (std::int64_t d = 0; d < Dp; d += kLanes) store(out + d, load(out + d) * factor);
  }
}

void finish(const AttentionHeadForward& head, const Softmax& state, std::int64_t query,
            std::int64_t rows) {
  sweep(rows, [&](std::int64_t r, auto lanes) {
    // Absent lanes take the logarithm of 1.
    const F32 sum = absent_as(load(state.sum + r, lanes), lanes, 1.0f);
    store(head.lse + query + r, load(state.largest + r, lanes) + log(sum), lanes);
  });
  for (std::int64_t r = 0; r < rows; ++r) {
    const F32 inverse = set1(1.0f / state.sum[r]);
    const float* from = state.out.data + r * state.out.stride;
    float* to = head.out + (query + r) * head.out_stride;
    sweep(head.D, [&](std::int64_t d, auto lanes) {
      store(to + d, load(from + d, lanes) * inverse, lanes);
    });
  }
}

std::int64_t forward_scratch_elems(std::int64_t T, std::int64_t D) {
  const std::int64_t Dp = padded(D);
  return blocks_of(T) * kBlock * (D + Dp) + kBlock * (D + kBlock + Dp + 3);
}

void forward(const AttentionHeadForward& head) {
  const std::int64_t T = head.T, D = head.D, Dp = padded(D), blocks = blocks_of(T);
  float* keys_t = head.scratch;                    // blocks of D x kBlock
  float* values = keys_t + blocks * kBlock * D;    // blocks of kBlock x Dp
  float* queries = values + blocks * kBlock * Dp;  // kBlock x D, scaled
  float* scores = queries + kBlock * D;
  float* out = scores + kBlock * kBlock;
  float* stats = out + kBlock * Dp;
  const Softmax state = {stats, stats + kBlock, stats + 2 * kBlock, scores, {out, Dp}};
  for (std::int64_t j = 0; j < blocks; ++j) {
    const std::int64_t first = j * kBlock, rows = smaller(kBlock, T - first);
    pack_transposed(head.k + first * head.qkv_stride, head.qkv_stride, rows, D, keys_t + first * D);
    pack_rows(head.v + first * head.qkv_stride, head.qkv_stride, rows, D, 1.0f, values + first * Dp,
              Dp);
  }
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::int64_t query = i * kBlock, rows = smaller(kBlock, T - query);
    pack_rows(head.q + query * head.qkv_stride, head.qkv_stride, rows, D, head.scale, queries, D);
    clear(out, kBlock * Dp);
    clear(state.sum, kBlock);
    for (std::int64_t r = 0; r < kBlock; ++r) state.largest[r] = -__builtin_inff();
    for (std::int64_t j = 0; j <= i; ++j) {
      const bool diagonal = i == j;
      multiply({{queries, D, 1},
                keys_t + j * kBlock * D,
                kBlock,
                {scores, kBlock},
                rows,
                kBlock,
                D,
                Start::zero,
                diagonal ? Skip::columns_after : Skip::nothing});
      absorb(head, state, query, rows, j * kBlock);
      multiply({{scores, kBlock, 1},
                values + j * kBlock * Dp,
                Dp,
                {out, Dp},
                rows,
                Dp,
                kBlock,
                Start::add,
                diagonal ? Skip::terms_after : Skip::nothing});
    }
    finish(head, state, query, rows);
  }
}

std::int64_t backward_scratch_elems(std::int64_t T, std::int64_t D) {
  const std::int64_t Dp = padded(D), all = blocks_of(T) * kBlock;
  return all * (3 * Dp + 1) + kBlock * (2 * D + 3 * Dp + 2 * kBlock);
}

/// Scratch of backward. Whole-head matrices have blocks_of(T) * kBlock rows.
struct Backward {
  float *queries, *douts, *dq;  // whole head, rows of Dp; queries are scaled
  float* delta;                 // whole head: sum over D of dout * out
  float *keys_t, *values_t;     // D x kBlock
  float *keys, *dk, *dv;        // kBlock x Dp
  float *scores, *dscores;      // kBlock x kBlock
};

Backward carve(const AttentionHeadBackward& head) {
  const std::int64_t Dp = padded(head.D), all = blocks_of(head.T) * kBlock;
  Backward s;
  float* next = head.scratch;
  const auto take = [&next](std::int64_t elems) {
    float* taken = next;
    next += elems;
    return taken;
  };
  s.queries = take(all * Dp);
  s.douts = take(all * Dp);
  s.dq = take(all * Dp);
  s.delta = take(all);
  s.keys_t = take(kBlock * head.D);
  s.values_t = take(kBlock * head.D);
  s.keys = take(kBlock * Dp);
  s.dk = take(kBlock * Dp);
  s.dv = take(kBlock * Dp);
  s.scores = take(kBlock * kBlock);
  s.dscores = take(kBlock * kBlock);
  return s;
}

void prepare(const AttentionHeadBackward& head, const Backward& s) {
  const std::int64_t T = head.T, D = head.D, Dp = padded(D);
  for (std::int64_t first = 0; first < T; first += kBlock) {
    const std::int64_t rows = smaller(kBlock, T - first);
    pack_rows(head.q + first * head.qkv_stride, head.qkv_stride, rows, D, head.scale,
              s.queries + first * Dp, Dp);
    pack_rows(head.dout + first * head.dout_stride, head.dout_stride, rows, D, 1.0f,
              s.douts + first * Dp, Dp);
  }
  clear(s.dq, blocks_of(T) * kBlock * Dp);
  for (std::int64_t t = 0; t < T; ++t) {
    const float *out = head.out + t * head.out_stride, *dout = s.douts + t * Dp;
    F32 sum = set1(0.0f);
    sweep(D, [&](std::int64_t d, auto lanes) {
      sum = fma(load(out + d, lanes), load(dout + d, lanes), sum);
    });
    s.delta[t] = reduce_sum(sum);
  }
}

/// Scores to masked probabilities, dscores to the gradient of scores: P = e^(s - lse), ds = P (mask
/// dP - delta).
void differentiate(const AttentionHeadBackward& head, const Backward& s, std::int64_t query,
                   std::int64_t rows, std::int64_t keys) {
  alignas(64) float factors[kBlock];
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t count = visible(query + r, keys);
    float *scores = s.scores + r * kBlock, *dscores = s.dscores + r * kBlock;
    const F32 lse = set1(head.lse[query + r]), delta = set1(s.delta[query + r]);
    if (head.mask == nullptr) {
      sweep(count, [&](std::int64_t c, auto lanes) {
        const F32 p = exp(load(scores + c) - lse);
        store(scores + c, absent_as(p, lanes, 0.0f));
        store(dscores + c, absent_as(p * (load(dscores + c) - delta), lanes, 0.0f));
      });
    } else {
      mask_row(*head.mask, head.T, query + r, keys, count, factors);
      sweep(count, [&](std::int64_t c, auto lanes) {
        const F32 p = exp(load(scores + c) - lse), factor = load(factors + c);
        store(scores + c, absent_as(p * factor, lanes, 0.0f));
        store(dscores + c, absent_as(p * (load(dscores + c) * factor - delta), lanes, 0.0f));
      });
    }
    clear_rest(scores, count);
    clear_rest(dscores, count);
  }
}

/// Everything between the query block at `query` and the key block at `keys`.
void backward_block(const AttentionHeadBackward& head, const Backward& s, std::int64_t query,
                    std::int64_t keys) {
  const std::int64_t D = head.D, Dp = padded(D);
  const std::int64_t rows = smaller(kBlock, head.T - query),
                     columns = smaller(kBlock, head.T - keys);
  const bool diagonal = query == keys;
  const Skip columns_after = diagonal ? Skip::columns_after : Skip::nothing;
  const Skip terms_before = diagonal ? Skip::terms_before : Skip::nothing;
  const Skip terms_after = diagonal ? Skip::terms_after : Skip::nothing;
  const float *queries = s.queries + query * Dp, *douts = s.douts + query * Dp;
  multiply({{queries, Dp, 1},
            s.keys_t,
            kBlock,
            {s.scores, kBlock},
            rows,
            kBlock,
            D,
            Start::zero,
            columns_after});
  multiply({{douts, Dp, 1},
            s.values_t,
            kBlock,
            {s.dscores, kBlock},
            rows,
            kBlock,
            D,
            Start::zero,
            columns_after});
  differentiate(head, s, query, rows, keys);
  multiply(
      {{s.scores, 1, kBlock}, douts, Dp, {s.dv, Dp}, columns, Dp, rows, Start::add, terms_before});
  multiply({{s.dscores, 1, kBlock},
            queries,
            Dp,
            {s.dk, Dp},
            columns,
            Dp,
            rows,
            Start::add,
            terms_before});
  multiply({{s.dscores, kBlock, 1},
            s.keys,
            Dp,
            {s.dq + query * Dp, Dp},
            rows,
            Dp,
            kBlock,
            Start::add,
            terms_after});
}

void backward(const AttentionHeadBackward& head) {
  const std::int64_t T = head.T, D = head.D, Dp = padded(D);
  const Backward s = carve(head);
  prepare(head, s);
  for (std::int64_t keys = 0; keys < T; keys += kBlock) {
    const std::int64_t rows = smaller(kBlock, T - keys);
    const float *k = head.k + keys * head.qkv_stride, *v = head.v + keys * head.qkv_stride;
    pack_transposed(k, head.qkv_stride, rows, D, s.keys_t);
    pack_transposed(v, head.qkv_stride, rows, D, s.values_t);
    pack_rows(k, head.qkv_stride, rows, D, 1.0f, s.keys, Dp);
    clear(s.dk, kBlock * Dp);
    clear(s.dv, kBlock * Dp);
    for (std::int64_t query = keys; query < T; query += kBlock)
      backward_block(head, s, query, keys);
    // dk took the scale with the packed queries.
    write_rows(s.dk, Dp, rows, D, 1.0f, head.dk + keys * head.dqkv_stride, head.dqkv_stride);
    write_rows(s.dv, Dp, rows, D, 1.0f, head.dv + keys * head.dqkv_stride, head.dqkv_stride);
  }
  write_rows(s.dq, Dp, T, D, head.scale, head.dq, head.dqkv_stride);
}

constexpr AttentionKernels kKernels = {forward_scratch_elems, backward_scratch_elems, forward,
                                       backward};

}  // namespace

const AttentionKernels& ELASWAVE_ISA_NAME(attention_kernels)() {
  return kKernels;
}

}  // namespace elaswave::kernels
