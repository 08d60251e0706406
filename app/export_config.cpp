// config.json of an export: the model's sizes as Hugging Face's GPT2Config names them.
#include <fmt/format.h>

#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "app/export.h"
#include "app/run_spec.h"
#include "model/spec/inventory.h"

namespace elaswave::app {
namespace {

using checkpoint::Manifest;
using Json = nlohmann::ordered_json;

// Of the GPT-2 tokenizer: <|endoftext|> begins and ends a text.
constexpr std::string_view kGpt2Tokenizer = "gpt2";
constexpr std::int64_t kGpt2EndOfText = 50256;

tl::unexpected<Error> no_gpt2(const std::string& where, std::string why) {
  return fail({.code = Code::usage,
               .what = "this checkpoint cannot be written as a GPT-2",
               .where = where,
               .why = std::move(why),
               .fix = "export it with --format hdf5"});
}

template <typename T>
Result<void> take(const Manifest& manifest, const std::string& key, T& value,
                  const std::string& where) {
  const std::optional<std::string> text = manifest.config_value(key);
  if (!text) return {};
  const char* end = text->data() + text->size();
  const auto [rest, problem] = std::from_chars(text->data(), end, value);
  if (problem == std::errc() && rest == end) return {};
  return no_gpt2(where, fmt::format("its key {} is '{}', not a number", key, *text));
}

/// The same tensors in the same shapes as the model of these sizes has.
Result<void> check_tensors(const Manifest& manifest, const spec::ModelConfig& model,
                           const std::string& where) {
  std::map<std::string, std::vector<std::int64_t>> expected;
  const spec::Inventory inventory(model, DType::f32);
  for (const spec::TensorSpec& tensor : inventory.tensors())
    expected[tensor.name].assign(tensor.shape.end() - tensor.dims, tensor.shape.end());
  for (const checkpoint::Tensor& tensor : manifest.tensors) {
    const auto found = expected.find(tensor.name);
    if (found == expected.end() || found->second != tensor.shape)
      return no_gpt2(where, fmt::format("its keys model.* do not describe tensor {} [{}]",
                                        tensor.name, fmt::join(tensor.shape, ", ")));
    expected.erase(found);
  }
  if (expected.empty()) return {};
  return no_gpt2(where, fmt::format("it lacks tensor {}", expected.begin()->first));
}

}  // namespace

Result<std::string> gpt2_config(const Manifest& manifest, const std::string& where) {
  Config::Model keys;
  keys.preset = manifest.config_value("model.preset").value_or(keys.preset);
  EW_TRY(take(manifest, "model.layers", keys.layers, where));
  EW_TRY(take(manifest, "model.heads", keys.heads, where));
  EW_TRY(take(manifest, "model.hidden", keys.hidden, where));
  EW_TRY(take(manifest, "model.context", keys.context, where));
  EW_TRY(take(manifest, "model.vocab", keys.vocab, where));
  EW_TRY(take(manifest, "model.dropout", keys.dropout, where));
  const Result<spec::ModelConfig> model = resolve_model(keys);
  if (!model) return no_gpt2(where, model.error().what + ": " + model.error().why);
  EW_TRY(check_tensors(manifest, *model, where));
  const bool gpt2_tokens =
      manifest.fact("tokenizer") == std::optional(std::string(kGpt2Tokenizer)) &&
      model->vocab > kGpt2EndOfText;
  const Json end_of_text = gpt2_tokens ? Json(kGpt2EndOfText) : Json(nullptr);
  // The key's own digits, not those of its float.
  const Json dropout = keys.dropout >= 0 ? Json(keys.dropout) : Json(model->dropout);
  const Json json = {{"model_type", "gpt2"},
                     {"architectures", Json::array({"GPT2LMHeadModel"})},
                     {"n_layer", model->layers},
                     {"n_head", model->heads},
                     {"n_embd", model->hidden},
                     {"n_positions", model->context},
                     {"n_ctx", model->context},
                     {"vocab_size", model->vocab},
                     {"activation_function", "gelu_new"},
                     {"layer_norm_epsilon", 1e-5},
                     {"attn_pdrop", dropout},
                     {"embd_pdrop", dropout},
                     {"resid_pdrop", dropout},
                     {"initializer_range", 0.02},
                     {"tie_word_embeddings", true},
                     {"bos_token_id", end_of_text},
                     {"eos_token_id", end_of_text},
                     {"torch_dtype", "float32"}};
  return json.dump(2) + "\n";
}

}  // namespace elaswave::app
