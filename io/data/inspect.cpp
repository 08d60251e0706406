#include "io/data/inspect.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "io/data/sampler.h"

namespace elaswave::data {
namespace {

constexpr std::int64_t kRunTokens = 1 << 18;
constexpr std::int64_t kShownIds = 16;
constexpr std::int64_t kShownTextTokens = 60;

std::string printable(std::span<const std::int32_t> tokens) {
  std::string text;
  for (const std::int32_t token : tokens) {
    if (token == kEndOfDocument)
      text += "<|end|>";
    else if (token >= 0x20 && token < 0x7f && token != '\\')
      text += static_cast<char>(token);
    else
      text += fmt::format("\\x{:02x}", token);
  }
  return text;
}

/// Calls visit with every token of a stream, in runs; stops at the first error.
template <typename Tokens, typename Visit>
Result<void> for_each_run(const Tokens& tokens, Visit visit) {
  std::vector<std::int32_t> run;
  for (std::int64_t first = 0; first < tokens.count(); first += kRunTokens) {
    run.resize(static_cast<std::size_t>(std::min(kRunTokens, tokens.count() - first)));
    EW_TRY(visit(first, std::span(run)));
  }
  return {};
}

Result<void> check(const VerifyOptions& options) {
  const auto usage = [](std::string where, std::string why) {
    return fail({Code::usage, "a verification makes no sense", std::move(where), std::move(why),
                 "give the values of the run to verify"});
  };
  if (options.files.empty()) return usage("files", "no token file was named");
  if (options.context_tokens < 1)
    return usage("--context", fmt::format("{} tokens", options.context_tokens));
  if (options.global_batch_samples < 1)
    return usage("--global_batch", fmt::format("{} samples", options.global_batch_samples));
  // The last position must fit 63 bits.
  if (options.first_step < 1 || options.last_step < options.first_step ||
      options.last_step > INT64_MAX / options.global_batch_samples)
    return usage("--steps", fmt::format("{} to {}", options.first_step, options.last_step));
  return {};
}

}  // namespace

Inspection inspect(const TokenFile& file) {
  Inspection result{.path = file.path(),
                    .format = file.format(),
                    .type = file.type(),
                    .tokenizer = file.tokenizer(),
                    .vocab = file.vocab(),
                    .count = file.count(),
                    .min_id = INT64_MAX,
                    .max_id = INT64_MIN,
                    .fingerprint = file.fingerprint()};
  const auto scanned =
      for_each_run(file, [&](std::int64_t first, std::span<std::int32_t> run) -> Result<void> {
        file.copy_tokens(first, run);
        const auto [low, high] = std::ranges::minmax(run);
        result.min_id = std::min<std::int64_t>(result.min_id, low);
        result.max_id = std::max<std::int64_t>(result.max_id, high);
        return {};
      });
  EW_CHECK(scanned.has_value(), "an unchecked scan cannot fail");
  const bool good = file.verify().has_value();
  result.checksum = !good                 ? ChecksumState::bad
                    : file.has_checksum() ? ChecksumState::good
                                          : ChecksumState::absent;
  std::vector<std::int32_t> head(
      static_cast<std::size_t>(std::min(kShownTextTokens, file.count())));
  file.copy_tokens(0, head);
  if (file.tokenizer() == kByteTokenizer) result.first_text = printable(head);
  head.resize(std::min<std::size_t>(head.size(), kShownIds));
  result.first_ids = std::move(head);
  return result;
}

std::vector<std::string> lines(const Inspection& inspection) {
  std::vector<std::string> text{
      fmt::format("file: {}", inspection.path),
      fmt::format("format: {}", name(inspection.format)),
      fmt::format("tokenizer: {}", inspection.tokenizer.empty() ? "unknown" : inspection.tokenizer),
      fmt::format("vocab: {}",
                  inspection.vocab == 0 ? "unknown" : fmt::format("{}", inspection.vocab)),
      fmt::format("dtype: {}", name(inspection.type)),
      fmt::format("tokens: {}", inspection.count),
      fmt::format("ids: {} to {}", inspection.min_id, inspection.max_id),
      fmt::format("fingerprint: {:016x}", inspection.fingerprint),
      fmt::format("checksum: {}", inspection.checksum == ChecksumState::absent
                                      ? "none in this format"
                                  : inspection.checksum == ChecksumState::good ? "ok"
                                                                               : "WRONG"),
      fmt::format("first ids: {}", fmt::join(inspection.first_ids, " "))};
  if (!inspection.first_text.empty())
    text.push_back(fmt::format("first text: {}", inspection.first_text));
  return text;
}

Result<void> prove_cover(std::int64_t sample_count, const SampleOrder& sample_at) {
  std::vector<bool> seen(static_cast<std::size_t>(sample_count));
  // As many visits as samples, all in range and none twice: then every sample is visited.
  for (std::int64_t i = 0; i < sample_count; ++i) {
    const std::int64_t sample = sample_at(i);
    if (sample < 0 || sample >= sample_count || seen[static_cast<std::size_t>(sample)])
      return fail({Code::bug, "the order of samples is not a permutation",
                   fmt::format("place {} of an epoch", i),
                   fmt::format("sample {} of {} is outside or comes twice", sample, sample_count),
                   "report this with the seed and the fingerprint of the data"});
    seen[static_cast<std::size_t>(sample)] = true;
  }
  return {};
}

Result<Verification> verify(const VerifyOptions& options) {
  EW_TRY(check(options));
  EW_ASSIGN(const TokenSet set, TokenSet::open(options.files, options.format, options.type));
  Verification result{.fingerprint = set.fingerprint(), .tokens = set.count()};
  for (const TokenFile& file : set.files()) {
    EW_TRY(file.verify());
    if (file.has_checksum()) ++result.checksums_checked;
  }
  // Without any vocabulary the ids must at least be valid 32-bit ids.
  const std::int64_t known = options.vocab != 0 ? options.vocab : set.vocab();
  const std::int64_t vocab = known != 0 ? known : std::int64_t{1} << 31;
  EW_TRY(for_each_run(set, [&](std::int64_t first, std::span<std::int32_t> run) {
    return set.copy_tokens_checked(first, run, vocab);
  }));
  EW_ASSIGN(result.samples_per_epoch, set.sample_count(options.context_tokens));
  // Samples tile the stream from its first token; what is left is less than one sample.
  result.tail_tokens = set.count() - 1 - result.samples_per_epoch * options.context_tokens;
  const Sampler sampler(options.seed, set.fingerprint(), result.samples_per_epoch);
  const std::int64_t batch = options.global_batch_samples;
  result.first_epoch = sampler.epoch_of(sample_position(options.first_step, batch, 0));
  result.last_epoch = sampler.epoch_of(sample_position(options.last_step, batch, batch - 1));
  for (std::int64_t epoch = result.first_epoch; epoch <= result.last_epoch; ++epoch)
    EW_TRY(prove_cover(result.samples_per_epoch, [&](std::int64_t i) {
      return sampler.sample_at(epoch * result.samples_per_epoch + i);
    }));
  for (std::int64_t step = options.first_step; step <= options.last_step; ++step)
    result.steps.push_back({step, sampler.sample_hash(step, batch)});
  return result;
}

std::vector<std::string> lines(const Verification& verification) {
  std::vector<std::string> text{
      fmt::format("fingerprint: {:016x}", verification.fingerprint),
      fmt::format("tokens: {}", verification.tokens),
      fmt::format("checksums: {} files ok", verification.checksums_checked),
      fmt::format("samples per epoch: {} ({} tokens at the end are in none)",
                  verification.samples_per_epoch, verification.tail_tokens),
      fmt::format("disjoint cover: every sample once in each of the epochs {} to {}",
                  verification.first_epoch, verification.last_epoch)};
  for (const StepHash& step : verification.steps)
    text.push_back(fmt::format("step {} sample_hash {:016x}", step.step, step.sample_hash));
  return text;
}

}  // namespace elaswave::data
