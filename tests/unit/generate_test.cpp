#include "app/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "app/commands.h"
#include "io/base/crc32c.h"
#include "io/checkpoint/store.h"
#include "io/data/token_format.h"
#include "model/gpt/decoder.h"
#include "model/gpt/init.h"
#include "model/kernels/cpu_ops.h"
#include "tests/support/temp_dir.h"

namespace elaswave::app {
namespace {

using Ids = std::vector<std::int32_t>;
using testing::expect_error;

constexpr spec::ModelConfig kModel = {
    .layers = 2, .heads = 2, .hidden = 16, .context = 12, .vocab = 300};
constexpr std::int64_t kFirstByte = 64;  // of the first piece

/// A checkpoint of one shard, made from the manifest's definition alone: no HDF5 around the pieces,
/// which readers do not look at.
struct Made {
  checkpoint::Manifest manifest;
  std::vector<std::byte> shard;
};

std::vector<std::uint32_t> crcs(std::span<const std::byte> bytes, std::int64_t unit_bytes) {
  std::vector<std::uint32_t> all;
  for (; !bytes.empty();
       bytes = bytes.subspan(std::size_t(std::min(unit_bytes, std::ssize(bytes)))))
    all.push_back(crc32c(bytes.first(std::size_t(std::min(unit_bytes, std::ssize(bytes))))));
  return all;
}

/// Weights of tensor t; large enough that texts differ.
std::vector<float> weights_of(const spec::Inventory& inventory, std::int32_t t) {
  std::vector<float> weights(static_cast<std::size_t>(inventory.tensor(t).elems()));
  gpt::initial_values(inventory.tensor(t), kModel.layers, 5, 0, weights);
  if (inventory.tensor(t).dims == 2)
    for (float& weight : weights) weight *= 10;
  return weights;
}

enum class Weights { sound, diverged };

Made make_checkpoint(const std::string& tokenizer, Weights weights = Weights::sound) {
  const spec::Inventory inventory(kModel, DType::f32);
  Made made;
  checkpoint::Manifest& manifest = made.manifest;
  manifest.run = "test";
  manifest.writer = "generate_test";
  manifest.created = "2026-01-01T00:00:00Z";
  manifest.step = Step{3};
  manifest.config = {{"model.layers", "2"},
                     {"model.heads", "2"},
                     {"model.hidden", "16"},
                     {"model.context", "12"},
                     {"model.vocab", "300"}};
  manifest.facts = {{"tokenizer", tokenizer}};
  made.shard.resize(kFirstByte);
  checkpoint::FileEntry entry;
  entry.name = checkpoint::shard_name(0);
  const auto count = static_cast<std::int32_t>(inventory.tensors().size());
  // Last tensor first: numbers of the manifest are not those of the inventory.
  for (std::int32_t i = 0; i < count; ++i) {
    const spec::TensorSpec& tensor = inventory.tensor(count - 1 - i);
    manifest.tensors.push_back(
        {tensor.name, {tensor.shape.end() - tensor.dims, tensor.shape.end()}});
    for (int kind = 0; kind < 3; ++kind) {
      std::vector<float> values = weights_of(inventory, count - 1 - i);
      if (weights == Weights::diverged && i == 0) values.front() = NAN;
      if (kind != 0) std::fill(values.begin(), values.end(), 1e9f);  // never asked for
      const auto bytes = std::as_bytes(std::span(values));
      entry.pieces.push_back(
          {.tensor = i,
           .kind = static_cast<checkpoint::Kind>(kind),
           .offset_bytes = std::ssize(made.shard),
           .runs = {{.begin = 0, .elems = tensor.elems(), .stride = tensor.elems()}},
           .unit_crcs = crcs(bytes, checkpoint::kUnitElems * 4)});
      made.shard.insert(made.shard.end(), bytes.begin(), bytes.end());
    }
  }
  entry.size_bytes = std::ssize(made.shard);
  entry.block_crcs = crcs(made.shard, checkpoint::kFileBlockBytes);
  entry.frame_crc = crc32c(std::span(made.shard).first(kFirstByte));
  manifest.files = {std::move(entry)};
  return made;
}

/// DIR/checkpoints/step-000000000003.
class GenerateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = kernels::make_cpu_ops(kernels::Isa::automatic);
    ASSERT_TRUE(made.has_value());
    ops_ = std::move(*made);
  }
  std::string step() const { return dir_ / ("checkpoints/" + checkpoint::step_name(Step{3})); }
  void save(const Made& made) {
    std::filesystem::create_directories(step() + "/shards");
    testing::write_file(step() + "/MANIFEST.json", checkpoint::to_text(made.manifest));
    testing::write_file(step() + "/" + checkpoint::shard_name(0),
                        {reinterpret_cast<const char*>(made.shard.data()), made.shard.size()});
  }
  std::unique_ptr<TextModel> load() {
    auto model = TextModel::load(*files_, dir_.path());
    EXPECT_TRUE(model.has_value()) << (model ? "" : model.error().text());
    return model ? std::move(*model) : nullptr;
  }
  std::unique_ptr<TextModel> load(const std::string& tokenizer) {
    save(make_checkpoint(tokenizer));
    return load();
  }
  Ids run(const TextModel& model, const GenerateRequest& request, int threads = 1,
          GenerateReport* report = nullptr) {
    device::CpuStream stream(threads);
    Ids tokens;
    const auto result =
        generate(model, {*ops_, stream}, clock_, request, [&](std::int32_t token) -> Result<void> {
          tokens.push_back(token);
          return {};
        });
    EXPECT_TRUE(result.has_value()) << (result ? "" : result.error().text());
    if (result && report != nullptr) *report = *result;
    return tokens;
  }
  Result<int> command(std::vector<std::string> words) {
    words.insert(words.begin(), {"--checkpoint", dir_.path()});
    return generate_command(words);
  }

  testing::TempDir dir_;
  std::unique_ptr<FileSystem> files_ = make_file_system();
  std::unique_ptr<kernels::Ops> ops_;
  RealClock clock_;
};

const std::string kBytes(data::kByteTokenizer);

TEST_F(GenerateTest, loads_the_master_weights_by_name) {
  const auto model = load(kBytes);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->config(), kModel);
  EXPECT_TRUE(model->bytes_are_tokens());
  EXPECT_EQ(model->text_vocab(), data::kByteVocab);
  for (std::int32_t t = 0; t < static_cast<std::int32_t>(model->inventory().tensors().size());
       ++t) {
    const std::span<const float> weights = model->parameters().vector(t);
    EXPECT_EQ(std::vector(weights.begin(), weights.end()), weights_of(model->inventory(), t))
        << model->inventory().tensor(t).name;
  }
  for (const std::string& path : {dir_ / "checkpoints", step()})
    EXPECT_TRUE(TextModel::load(*files_, path).has_value()) << path;
}

TEST_F(GenerateTest, same_seed_same_text_on_any_number_of_threads) {
  const auto model = load("other");
  ASSERT_NE(model, nullptr);
  GenerateRequest request{.prompt = {4, 299, 0}, .max_tokens = 60, .seed = 7, .rules = {}};
  GenerateReport report;
  const Ids first = run(*model, request, 1, &report);
  EXPECT_EQ(std::ssize(first), 60);
  EXPECT_EQ(report.tokens, 60);
  EXPECT_EQ(report.prompt_tokens, 3);
  for (const int threads : {1, 2, 5}) EXPECT_EQ(run(*model, request, threads), first) << threads;
  EXPECT_TRUE(std::any_of(first.begin(), first.end(), [](auto id) { return id > 256; }));
  // A shorter text is a prefix, another seed another text.
  request.max_tokens = 5;
  EXPECT_EQ(run(*model, request), Ids(first.begin(), first.begin() + 5));
  request.seed = 8;
  request.max_tokens = 60;
  EXPECT_NE(run(*model, request), first);
}

// Greedy text spelled out: the context of 12 fills and starts again from the last 6 tokens.
TEST_F(GenerateTest, a_full_context_restarts_from_its_second_half) {
  const auto model = load("other");
  ASSERT_NE(model, nullptr);
  device::CpuStream stream(1);
  gpt::Decoder decoder(*ops_, stream, model->config(), model->inventory(), model->parameters());
  for (const std::int64_t prompt : {1, 11, 12, 13, 40}) {
    Ids all;
    for (std::int32_t i = 0; i < prompt; ++i) all.push_back(i * 7 % 300);
    const GenerateRequest request{
        .prompt = all, .max_tokens = 30, .seed = 1, .rules = {.temperature = 0}};
    std::int64_t begin = prompt > 12 ? prompt - 6 : 0, restarts = prompt > 12;
    Ids expected;
    for (std::int64_t i = 0; i < 30; ++i) {
      if (std::ssize(all) - begin > 12) {
        begin = std::ssize(all) - 6;
        ++restarts;
      }
      decoder.reset();
      const auto logits = decoder.advance(std::span(all).subspan(static_cast<std::size_t>(begin)));
      ASSERT_TRUE(logits.has_value());
      expected.push_back(gpt::choose_token(*logits, request.rules, 1, i).value());
      all.push_back(expected.back());
    }
    GenerateReport report;
    EXPECT_EQ(run(*model, request, 1, &report), expected) << prompt;
    EXPECT_EQ(report.restarts, restarts) << prompt;
  }
}

TEST_F(GenerateTest, byte_models_choose_bytes) {
  const auto model = load(kBytes);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(start_token(*model), data::kEndOfDocument);
  const Ids tokens = run(*model, {.prompt = {start_token(*model)},
                                  .max_tokens = 2000,
                                  .seed = 2,
                                  .rules = {.temperature = 100}});
  EXPECT_EQ(std::ssize(tokens), 2000);
  EXPECT_EQ(*std::max_element(tokens.begin(), tokens.end()), data::kEndOfDocument);
  EXPECT_EQ(token_byte(data::kEndOfDocument), '\n');
  EXPECT_EQ(token_byte(255), '\xFF');
  EXPECT_EQ(byte_tokens(std::string_view("a\0\xFF", 3)), (Ids{97, 0, 255}));
  EXPECT_EQ(expect_error(check_prompt(*model, Ids{256, 257}), Code::usage).find("token 257") ==
                std::string::npos,
            false);
  EXPECT_TRUE(check_prompt(*model, Ids{0, 256}).has_value());
  expect_error(check_prompt(*model, Ids{-1}), Code::usage);
}

TEST_F(GenerateTest, logits_of_a_prompt) {
  const auto model = load("");
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(start_token(*model), 0);
  EXPECT_EQ(model->text_vocab(), 300);
  device::CpuStream stream(2);
  const Ids ids = {5, 6, 7};
  const auto logits = prompt_logits(*model, {*ops_, stream}, ids);
  ASSERT_TRUE(logits.has_value());
  EXPECT_EQ(std::ssize(*logits), 300);
  const Ids greedy = run(*model, {.prompt = ids, .max_tokens = 1, .rules = {.temperature = 0}});
  EXPECT_EQ(greedy.front(), std::max_element(logits->begin(), logits->end()) - logits->begin());
  expect_error(prompt_logits(*model, {*ops_, stream}, Ids(13, 0)), Code::usage);
}

TEST_F(GenerateTest, errors_of_the_sink_and_of_the_model_end_the_text) {
  const auto model = load("other");
  ASSERT_NE(model, nullptr);
  device::CpuStream stream(1);
  int calls = 0;
  const auto result = generate(*model, {*ops_, stream}, clock_, {.prompt = {1}, .max_tokens = 9},
                               [&](std::int32_t) -> Result<void> {
                                 if (++calls < 3) return {};
                                 return fail({Code::io, "no", "way", "out", "."});
                               });
  expect_error(result, Code::io);
  EXPECT_EQ(calls, 3);

  save(make_checkpoint("other", Weights::diverged));
  const auto diverged = load();
  ASSERT_NE(diverged, nullptr);
  expect_error(generate(*diverged, {*ops_, stream}, clock_, {.prompt = {1}, .max_tokens = 9},
                        [&](std::int32_t) -> Result<void> {
                          ++calls;
                          return {};
                        }),
               Code::non_finite);
  EXPECT_EQ(calls, 3);
}

TEST_F(GenerateTest, damage_is_found_and_named) {
  const Made good = make_checkpoint(kBytes);
  expect_error(TextModel::load(*files_, dir_.path()), Code::data);  // nothing there

  Made bad = good;  // a weight
  bad.shard[kFirstByte + 9] ^= std::byte{4};
  save(bad);
  EXPECT_NE(expect_error(TextModel::load(*files_, dir_.path()), Code::corrupt).find("w00000.h5"),
            std::string::npos);

  bad = good;  // shorter than it was
  bad.shard.pop_back();
  save(bad);
  expect_error(TextModel::load(*files_, dir_.path()), Code::corrupt);

  save(good);
  std::filesystem::resize_file(step() + "/MANIFEST.json", 100);
  expect_error(TextModel::load(*files_, dir_.path()), Code::corrupt);

  for (const auto& [key, value] :
       std::vector<std::pair<std::string, std::string>>{{"model.layers", "3"},
                                                        {"model.hidden", "32"},
                                                        {"model.vocab", "301"},
                                                        {"model.context", "13"},
                                                        {"model.heads", "3"},
                                                        {"model.heads", "two"},
                                                        {"model.heads", ""},
                                                        {"model.hidden", "-16"},
                                                        {"model.layers", "99999999999999999999"},
                                                        {"model.heads", "2 "}}) {
    bad = good;
    for (auto& fact : bad.manifest.config)
      if (fact.first == key) fact.second = value;
    save(bad);
    expect_error(TextModel::load(*files_, dir_.path()), Code::corrupt);
  }
  bad = good;
  bad.manifest.config.pop_back();
  save(bad);
  EXPECT_NE(expect_error(TextModel::load(*files_, dir_.path()), Code::corrupt).find("model.vocab"),
            std::string::npos);
  bad = good;
  bad.manifest.tensors.front().name = "unknown";
  save(bad);
  EXPECT_NE(expect_error(TextModel::load(*files_, dir_.path()), Code::corrupt).find("ln_f.bias"),
            std::string::npos);
}

TEST(Generate, token_ids_of_text) {
  EXPECT_EQ(parse_token_ids("0").value(), (Ids{0}));
  EXPECT_EQ(parse_token_ids("1,22,2147483647").value(), (Ids{1, 22, 2147483647}));
  for (const char* bad : {"", ",", "1,", ",1", "1,,2", "1 2", "1, 2", "-1", "+1", "x", "1.0", "0x1",
                          "2147483648", "99999999999999999999"})
    expect_error(parse_token_ids(bad), Code::usage);
  EXPECT_NE(expect_error(parse_token_ids("1,two,3"), Code::usage).find("'two'"), std::string::npos);
}

TEST_F(GenerateTest, command_prints_prompt_and_continuation) {
  save(make_checkpoint(kBytes));
  const auto captured = [&](const std::vector<std::string>& words) {
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const auto code = command(words);
    const std::string error = ::testing::internal::GetCapturedStderr();
    EXPECT_TRUE(code.has_value()) << (code ? "" : code.error().text());
    EXPECT_EQ(code.value_or(-1), 0);
    EXPECT_NE(error.find("tokens/s"), std::string::npos) << error;
    return ::testing::internal::GetCapturedStdout();
  };
  const std::string text = captured({"--prompt=To be", "--max-tokens=20", "--seed=3"});
  EXPECT_EQ(text.size(), 5u + 20 + 1);
  EXPECT_TRUE(text.starts_with("To be"));
  EXPECT_EQ(text.back(), '\n');
  EXPECT_EQ(
      captured({"--prompt_tokens=84,111,32,98,101", "--max-tokens=20", "--seed=3", "--threads=2"}),
      text);
  // A newer one that is damaged is named, but not where the text goes.
  const std::string newer = dir_ / "checkpoints/step-000000000004";
  std::filesystem::create_directory(newer);
  testing::write_file(newer + "/MANIFEST.json", "{");
  EXPECT_EQ(captured({"--prompt=To be", "--max-tokens=20", "--seed=3"}), text);
  EXPECT_EQ(captured({"--max_tokens=4"}).size(), 5u);  // the start is not shown
  EXPECT_EQ(captured({"--prompt", "", "--max_tokens=4"}).size(), 5u);

  save(make_checkpoint("gpt2"));
  const std::string ids = captured({"--prompt_tokens=5,299", "--max_tokens=3", "--temperature=0"});
  EXPECT_TRUE(ids.starts_with("5 299 "));
  EXPECT_EQ(std::count(ids.begin(), ids.end(), ' '), 4);
  EXPECT_EQ(ids.find('\n'), ids.size() - 1);
}

TEST_F(GenerateTest, command_checks_its_arguments) {
  save(make_checkpoint(kBytes));
  const std::string most = "--max_tokens=3";
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{},
                                             {"--max_tokens=0"},
                                             {"--max_tokens=many"},
                                             {most, "--seed=-1"},
                                             {most, "--temperature=-0.1"},
                                             {most, "--temperature=nan"},
                                             {most, "--top_k=-1"},
                                             {most, "--top_p=0"},
                                             {most, "--top_p=1.5"},
                                             {most, "--threads=-1"},
                                             {most, "--threads=5000"},
                                             {most, "--isa=sse"},
                                             {most, "--prompt=a", "--prompt_tokens=1"},
                                             {most, "--prompt_tokens=a"},
                                             {most, "--prompt_tokens=257"},
                                             {most, "--promt=a"},
                                             {most, "word"}}) {
    ::testing::internal::CaptureStdout();
    const auto result = command(words);
    EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
    expect_error(result, Code::usage);
  }
  save(make_checkpoint("gpt2"));
  EXPECT_NE(expect_error(command({most, "--prompt=a"}), Code::usage).find("--prompt_tokens"),
            std::string::npos);
  expect_error(generate_command(std::vector<std::string>{"--max_tokens=3"}), Code::usage);
  expect_error(generate_command(std::vector<std::string>{most, "--checkpoint=" + dir_ / "none"}),
               Code::data);
}

}  // namespace
}  // namespace elaswave::app
