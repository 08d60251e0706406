#include "app/generate.h"

#include <algorithm>
#include <charconv>

#include "app/memory.h"
#include "io/checkpoint/reader.h"
#include "io/checkpoint/store.h"
#include "io/data/token_format.h"
#include "model/gpt/decoder.h"

namespace elaswave::app {
namespace {

using checkpoint::Manifest;

tl::unexpected<Error> unfit(const std::string& checkpoint, std::string why) {
  return fail({.code = Code::corrupt,
               .what = "a checkpoint does not hold the model it describes",
               .where = checkpoint,
               .why = std::move(why),
               .fix = "use another checkpoint"});
}

template <typename Number>
bool parse_number(std::string_view text, Number& number) {
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  return problem == std::errc{} && end == text.data() + text.size();
}

Result<spec::ModelConfig> model_of(const Manifest& manifest, const std::string& checkpoint) {
  spec::ModelConfig config;
  const std::pair<std::string_view, std::int64_t*> sizes[] = {{"model.layers", &config.layers},
                                                              {"model.heads", &config.heads},
                                                              {"model.hidden", &config.hidden},
                                                              {"model.context", &config.context},
                                                              {"model.vocab", &config.vocab}};
  for (const auto& [key, size] : sizes) {
    const std::optional<std::string> value = manifest.config_value(key);
    if (!value || !parse_number(*value, *size))
      return unfit(checkpoint, value ? fmt::format("its {} is '{}', not a number", key, *value)
                                     : fmt::format("it does not say its {}", key));
  }
  if (const auto valid = spec::validate(config); !valid)
    return unfit(checkpoint, valid.error().why);
  return config;
}

Result<void> check_tensors(const spec::Inventory& inventory, const Manifest& manifest,
                           const std::string& checkpoint) {
  if (manifest.tensors.size() != inventory.tensors().size())
    return unfit(checkpoint, fmt::format("it has {} tensors, a model of its sizes has {}",
                                         manifest.tensors.size(), inventory.tensors().size()));
  for (const spec::TensorSpec& tensor : inventory.tensors()) {
    const auto found = std::find_if(manifest.tensors.begin(), manifest.tensors.end(),
                                    [&](const auto& other) { return other.name == tensor.name; });
    const std::vector<std::int64_t> shape(tensor.shape.end() - tensor.dims, tensor.shape.end());
    if (found == manifest.tensors.end() || found->shape != shape)
      return unfit(checkpoint, fmt::format("it has no tensor {} of shape [{}]", tensor.name,
                                           fmt::join(shape, ", ")));
  }
  return {};
}

/// Weights, and keys and values of a whole context.
Result<void> check_fits(const spec::ModelConfig& config, const spec::Inventory& inventory) {
  const double weights = 4.0 * static_cast<double>(inventory.total_elems());
  const double cache = 8.0 * static_cast<double>(config.layers) *
                       static_cast<double>(config.context) * static_cast<double>(config.hidden);
  const double host = host_memory();
  if (host == 0 || weights + cache <= host) return {};
  return fail({.code = Code::does_not_fit,
               .what = "the model does not fit into memory",
               .where = "generate",
               .why = fmt::format("weights of {} and a context of {} exceed the host's {}",
                                  bytes_text(weights), bytes_text(cache), bytes_text(host)),
               .fix = "use a host with more memory"});
}

/// All tokens of a text, and the decoder that has seen the last of them.
class Text {
 public:
  Text(const TextModel& model, const Device& device)
      : decoder_(device.ops, device.stream, model.config(), model.inventory(), model.parameters()) {
  }

  Result<std::span<const float>> append(std::span<const std::int32_t> ids) {
    tokens_.insert(tokens_.end(), ids.begin(), ids.end());
    if (std::ssize(ids) <= decoder_.capacity() - decoder_.position()) return decoder_.advance(ids);
    ++restarts_;
    decoder_.reset();
    const std::int64_t kept = std::max<std::int64_t>(1, decoder_.capacity() / 2);
    return decoder_.advance(std::span(tokens_).last(static_cast<std::size_t>(kept)));
  }
  std::int64_t restarts() const { return restarts_; }

 private:
  gpt::Decoder decoder_;
  std::vector<std::int32_t> tokens_;
  std::int64_t restarts_ = 0;
};

}  // namespace

TextModel::TextModel(const spec::ModelConfig& config, std::string tokenizer)
    : config_(config),
      tokenizer_(std::move(tokenizer)),
      inventory_(config_, DType::f32),
      weights_(inventory_.blocks(),
               std::vector<std::int64_t>(inventory_.tensors().size(), size_bytes(DType::f32))),
      parameters_(inventory_, weights_) {}

Result<std::unique_ptr<TextModel>> TextModel::load(FileSystem& files, const std::string& path) {
  EW_ASSIGN(const std::string found, checkpoint::find_checkpoint(files, path));
  EW_ASSIGN(const Manifest manifest, checkpoint::read_manifest(files, found));
  EW_ASSIGN(const spec::ModelConfig config, model_of(manifest, found));
  {  // before any memory is taken
    const spec::Inventory inventory(config, DType::f32);
    EW_TRY(check_tensors(inventory, manifest, found));
    EW_TRY(check_fits(config, inventory));
  }
  std::unique_ptr<TextModel> model(new TextModel(config, manifest.fact("tokenizer").value_or("")));
  EW_TRY(model->read(files, found, manifest));
  return model;
}

Result<void> TextModel::read(FileSystem& files, const std::string& checkpoint,
                             const Manifest& manifest) {
  std::vector<checkpoint::Want> wants;
  for (std::int32_t index = 0; index < static_cast<std::int32_t>(inventory_.tensors().size());
       ++index) {
    const spec::TensorSpec& tensor = inventory_.tensor(index);
    const auto found = std::find_if(manifest.tensors.begin(), manifest.tensors.end(),
                                    [&](const auto& other) { return other.name == tensor.name; });
    // Working weights are f32: the master weights themselves, read where they are used.
    wants.push_back({.tensor = static_cast<std::int32_t>(found - manifest.tensors.begin()),
                     .kind = checkpoint::Kind::master,
                     .begin = 0,
                     .out = {reinterpret_cast<float*>(weights_.part(index)),
                             static_cast<std::size_t>(tensor.elems())}});
  }
  return checkpoint::read_wants(files, checkpoint, manifest, std::move(wants));
}

bool TextModel::bytes_are_tokens() const {
  return tokenizer_ == data::kByteTokenizer;
}

std::int64_t TextModel::text_vocab() const {
  return bytes_are_tokens() ? std::min(data::kByteVocab, config_.vocab) : config_.vocab;
}

Result<void> check_prompt(const TextModel& model, std::span<const std::int32_t> ids) {
  const auto bad = std::find_if(
      ids.begin(), ids.end(), [&](std::int32_t id) { return id < 0 || id >= model.text_vocab(); });
  if (bad == ids.end()) return {};
  return fail({.code = Code::usage,
               .what = fmt::format("the model does not know token {}", *bad),
               .where = fmt::format("prompt, token {}", bad - ids.begin() + 1),
               .why = fmt::format("its texts consist of tokens 0 to {}", model.text_vocab() - 1),
               .fix = "use the tokenizer that the model was trained with"});
}

Result<GenerateReport> generate(const TextModel& model, const Device& device, const Clock& clock,
                                const GenerateRequest& request, const TokenSink& sink) {
  EW_TRY(gpt::validate(request.rules));
  EW_TRY(check_prompt(model, request.prompt));
  GenerateReport report{.prompt_tokens = std::ssize(request.prompt)};
  Text text(model, device);
  const Nanoseconds start = clock.now();
  EW_ASSIGN(std::span<const float> logits, text.append(request.prompt));
  report.prompt_time = clock.now() - start;
  while (report.tokens < request.max_tokens) {
    EW_ASSIGN(const std::int32_t token,
              gpt::choose_token(logits.first(static_cast<std::size_t>(model.text_vocab())),
                                request.rules, request.seed, report.tokens));
    EW_TRY(sink(token));
    if (++report.tokens == request.max_tokens) break;
    EW_ASSIGN(logits, text.append(std::span(&token, 1)));
  }
  report.time = clock.now() - start - report.prompt_time;
  report.restarts = text.restarts();
  return report;
}

Result<std::vector<float>> prompt_logits(const TextModel& model, const Device& device,
                                         std::span<const std::int32_t> ids) {
  gpt::Decoder decoder(device.ops, device.stream, model.config(), model.inventory(),
                       model.parameters());
  EW_ASSIGN(const std::span<const float> logits, decoder.advance(ids));
  return std::vector<float>(logits.begin(), logits.end());
}

std::vector<std::int32_t> byte_tokens(std::string_view text) {
  std::vector<std::int32_t> tokens;
  tokens.reserve(text.size());
  for (const char byte : text) tokens.push_back(static_cast<unsigned char>(byte));
  return tokens;
}

char token_byte(std::int32_t token) {
  EW_CHECK(token >= 0 && token <= data::kEndOfDocument, "token {} has no byte", token);
  return token == data::kEndOfDocument ? '\n' : static_cast<char>(token);
}

std::int32_t start_token(const TextModel& model) {
  if (!model.bytes_are_tokens()) return 0;
  return model.config().vocab > data::kEndOfDocument ? data::kEndOfDocument : '\n';
}

Result<std::vector<std::int32_t>> parse_token_ids(std::string_view text) {
  std::vector<std::int32_t> ids;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    std::int32_t id = 0;
    if (!parse_number(part, id) || id < 0)
      return fail({.code = Code::usage,
                   .what = fmt::format("'{}' is not a token id", part),
                   .where = fmt::format("--prompt_tokens, number {}", ids.size() + 1),
                   .why = "ids are whole numbers from 0 to 2147483647",
                   .fix = "separate ids by commas alone: --prompt_tokens=1,2,3"});
    ids.push_back(id);
    begin = end + 1;
  }
  return ids;
}

}  // namespace elaswave::app
