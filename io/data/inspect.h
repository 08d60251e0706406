// What is in a token file (`elaswave data inspect`), and the proof that training sees every sample
// exactly once
// (`elaswave data verify`). Both read files whole; nothing is written. THREADS: any, one call each.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/base/error.h"
#include "io/data/token_file.h"

namespace elaswave::data {

enum class ChecksumState : std::uint8_t { absent, good, bad };

struct Inspection {
  std::string path;
  TokenFormat format = TokenFormat::elaswave;
  TokenType type = TokenType::u16;
  std::string tokenizer;   // empty: unknown
  std::int64_t vocab = 0;  // 0: unknown
  std::int64_t count = 0;  // tokens
  std::int64_t min_id = 0;
  std::int64_t max_id = 0;
  std::uint64_t fingerprint = 0;
  ChecksumState checksum = ChecksumState::absent;
  std::vector<std::int32_t> first_ids = {};  // at most 16
  std::string first_text =
      {};  // byte tokenizer only: up to 60 tokens, unprintable bytes as \xHH, 256 as <|end|>
};

/// A wrong checksum is a value here, not an error: the reader wants to see the rest.
Inspection inspect(const TokenFile& file);
/// One "name: value" line each.
std::vector<std::string> lines(const Inspection& inspection);

struct VerifyOptions {
  std::vector<std::string> files;
  TokenFormat format = TokenFormat::automatic;
  TokenType type = TokenType::automatic;
  std::uint64_t seed = 0;
  std::int64_t context_tokens = 0;
  std::int64_t global_batch_samples = 0;
  std::int64_t first_step = 1;
  std::int64_t last_step = 1;  // inclusive
  std::int64_t vocab = 0;      // ids are checked against it; 0: the file's own, if it says
};

struct StepHash {
  std::int64_t step = 0;
  std::uint64_t sample_hash = 0;
};

struct Verification {
  std::uint64_t fingerprint = 0;
  std::int64_t tokens = 0;
  std::int64_t samples_per_epoch = 0;
  std::int64_t tail_tokens = 0;  // at the end of the stream, in no sample
  std::int64_t first_epoch = 0;  // epochs that the steps touch, all proved
  std::int64_t last_epoch = 0;
  std::int64_t checksums_checked = 0;  // files
  std::vector<StepHash> steps = {};
};

using SampleOrder = std::function<std::int64_t(std::int64_t)>;

/// An order of an epoch (places 0 .. sample_count - 1) visits every sample once: walks it, one bit
/// a sample. Code::bug with the first place that does not fit.
Result<void> prove_cover(std::int64_t sample_count, const SampleOrder& sample_at);

/// Checks every checksum and id, walks each epoch that the steps touch and proves that every sample
/// occurs once and that samples tile the stream, then hashes each step. Memory: one bit a sample.
/// The first violation is an Error.
Result<Verification> verify(const VerifyOptions& options);
std::vector<std::string> lines(const Verification& verification);

}  // namespace elaswave::data
