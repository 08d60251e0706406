// Text out of a checkpoint: the master weights of a model, and tokens chosen one after the other.
// ERRORS: Code::data for a path that holds no checkpoint, Code::corrupt for a damaged one,
// Code::usage for a prompt the model does not know, Code::non_finite for diverged weights. THREADS:
// one caller.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/clock.h"
#include "io/base/file_system.h"
#include "io/checkpoint/manifest.h"
#include "model/gpt/token_choice.h"
#include "model/kernels/ops.h"
#include "model/layers/parameters.h"
#include "model/spec/inventory.h"
#include "parallel/device/stream.h"
#include "parallel/zero/store.h"

namespace elaswave::app {

/// The weights of one checkpoint, every byte of them verified.
class TextModel {
 public:
  /// `path` is a run directory, its checkpoints/ or one checkpoint; of several the newest.
  /// Code::does_not_fit when weights and one full context exceed the host's memory.
  static Result<std::unique_ptr<TextModel>> load(FileSystem& files, const std::string& path);

  const spec::ModelConfig& config() const { return config_; }
  const spec::Inventory& inventory() const { return inventory_; }
  const layers::Parameters& parameters() const { return parameters_; }
  const std::string& tokenizer() const { return tokenizer_; }  // empty: not known
  bool bytes_are_tokens() const;
  /// Texts consist of the ids below: the vocabulary, and of a byte model no more than the bytes and
  /// the end mark of documents (it never saw others, and they cannot be written).
  std::int64_t text_vocab() const;

  ~TextModel() = default;
  TextModel(const TextModel&) = delete;
  TextModel& operator=(const TextModel&) = delete;

 private:
  TextModel(const spec::ModelConfig& config, std::string tokenizer);
  Result<void> read(FileSystem& files, const std::string& checkpoint,
                    const checkpoint::Manifest& manifest);

  spec::ModelConfig config_;
  std::string tokenizer_;
  spec::Inventory inventory_;
  zero::TensorStore weights_;
  layers::Parameters parameters_;
};

/// Where it is computed.
struct Device {
  kernels::Ops& ops;
  device::CpuStream& stream;
};

struct GenerateRequest {
  std::vector<std::int32_t> prompt;  // at least one token
  std::int64_t max_tokens = 0;       // at least 1
  std::uint64_t seed = 0;
  gpt::ChoiceRules rules;
};

struct GenerateReport {
  std::int64_t prompt_tokens = 0, tokens = 0;
  std::int64_t restarts = 0;  // of the cache, see generate()
  Nanoseconds prompt_time = 0, time = 0;
};

/// Called with each new token as soon as it is chosen; its error ends the text.
using TokenSink = std::function<Result<void>(std::int32_t)>;

/// The same model, request and device class give the same tokens on any number of threads. When
/// tokens do not fit into the context, the model starts afresh from the last context / 2 of all
/// tokens so far (at least one); a prompt that is too long is cut to as many.
Result<GenerateReport> generate(const TextModel& model, const Device& device, const Clock& clock,
                                const GenerateRequest& request, const TokenSink& sink);

/// Code::usage names the first id that is not below text_vocab().
Result<void> check_prompt(const TextModel& model, std::span<const std::int32_t> ids);

/// The logits [vocab] after the last of `ids`.
Result<std::vector<float>> prompt_logits(const TextModel& model, const Device& device,
                                         std::span<const std::int32_t> ids);

/// The bytes of a prompt as tokens.
std::vector<std::int32_t> byte_tokens(std::string_view text);
/// What a token of a byte model is written as: its byte; the end mark of documents is a newline.
/// REQUIRES: a token below text_vocab() of a byte model.
char token_byte(std::int32_t token);
/// What an empty prompt begins with; it is not part of the text. Byte models: the end mark of
/// documents (a newline when the vocabulary has none); others: token 0.
std::int32_t start_token(const TextModel& model);
/// "1,2,3" as ids. Pure. Code::usage names the part that is no number.
Result<std::vector<std::int32_t>> parse_token_ids(std::string_view text);

}  // namespace elaswave::app
