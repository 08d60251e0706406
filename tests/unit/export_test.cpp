// `elaswave checkpoint export`: both formats bit for bit against the state that was saved and
// against each other, judged by scripts/check_safetensors.py; what it refuses; and, where
// ELASWAVE_REFERENCE_PYTHON names an interpreter with transformers, logits of the exported model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "app/export.h"
#include "io/checkpoint/store.h"
#include "io/hdf5/file.h"
#include "model/gpt/decoder.h"
#include "model/kernels/cpu_ops.h"
#include "tests/reference/pytorch/reference_data.h"
#include "tests/support/small_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace elaswave::app {
namespace {

using checkpoint::Kind;
using checkpoint::Manifest;
using elaswave::testing::bytes_of;
using elaswave::testing::expect_error;
using elaswave::testing::read_file;
using elaswave::testing::save;
using elaswave::testing::save_halves;
using elaswave::testing::SmallState;
using elaswave::testing::TempDir;
using elaswave::testing::write_file;
using ::testing::HasSubstr;
using Json = nlohmann::json;

spec::ModelConfig config_of(const reference::Recipe& recipe) {
  return {.layers = recipe.layers,
          .heads = recipe.heads,
          .hidden = recipe.hidden,
          .context = recipe.context,
          .vocab = recipe.vocab};
}

/// The small GPT-2 of the reference values, as a checkpoint.
class Export : public ::testing::Test {
 protected:
  Export() : data_(reference::read_reference(ELASWAVE_REFERENCE_FILE).value()) {
    std::vector<checkpoint::Tensor> tensors;
    for (const reference::Weight& weight : data_.weights)
      tensors.push_back({weight.name, weight.shape});
    state_ = elaswave::testing::small_state(std::move(tensors));
    for (std::size_t t = 0; t < data_.weights.size(); ++t)
      state_.of(Kind::master, t) = data_.weights[t].values;
    manifest_ = elaswave::testing::small_manifest(state_, Step{12});
    const reference::Recipe& recipe = data_.recipe;
    manifest_.config = {{"model.preset", "tiny"},
                        {"model.layers", fmt::format("{}", recipe.layers)},
                        {"model.heads", fmt::format("{}", recipe.heads)},
                        {"model.hidden", fmt::format("{}", recipe.hidden)},
                        {"model.context", fmt::format("{}", recipe.context)},
                        {"model.vocab", fmt::format("{}", recipe.vocab)},
                        {"model.dropout", "0.1"}};
  }

  std::string saved(int shards = 2) {
    const auto path = save(*files_, dir_.path(), manifest_, state_, shards);
    EXPECT_TRUE(path.has_value()) << path.error().text();
    return path.value_or("");
  }
  Result<std::vector<std::string>> exported(const std::string& checkpoint,
                                            const ExportOptions& options) {
    return export_checkpoint(*files_, checkpoint, options);
  }
  void expect_same_values(const std::string& hdf5_file, const std::string& group, Kind kind) {
    const auto reader = hdf5::Reader::open(hdf5_file);
    ASSERT_TRUE(reader.has_value()) << reader.error().text();
    for (std::size_t t = 0; t < state_.tensors.size(); ++t) {
      const std::string name = group + "/" + state_.tensors[t].name;
      EXPECT_EQ(reader->dims(name).value(), state_.tensors[t].shape) << name;
      EXPECT_EQ(bytes_of(reader->read_f32(name).value()), bytes_of(state_.of(kind, t))) << name;
    }
  }

  TempDir dir_;
  std::unique_ptr<FileSystem> files_ = make_file_system();
  reference::ReferenceData data_;
  SmallState state_;
  Manifest manifest_;
};

int run(const std::string& command) {
  return std::system((command + " >/dev/null").c_str());
}

const std::string kChecker =
    ELASWAVE_PYTHON " -B " ELASWAVE_SOURCE_DIR "/scripts/check_safetensors.py ";

TEST_F(Export, BothFormatsHoldTheState) {
  const std::string path = saved();
  const std::string consolidated = dir_ / "all.h5";
  ASSERT_TRUE(exported(path, {.output = consolidated, .format = ExportFormat::hdf5}).has_value());
  expect_same_values(consolidated, "/model", Kind::master);
  expect_same_values(consolidated, "/optimizer/exp_avg", Kind::exp_avg);
  expect_same_values(consolidated, "/optimizer/exp_avg_sq", Kind::exp_avg_sq);
  const auto reader = hdf5::Reader::open(consolidated);
  EXPECT_EQ(reader->i64("/trainer", "tokens").value(), manifest_.tokens);
  EXPECT_EQ(reader->f64("/trainer", "loss").value(), manifest_.loss);
  EXPECT_EQ(reader->text("/config", "model.dropout").value(), "0.1");
  EXPECT_EQ(reader->text("/facts", "tokenizer").value(), "bytes");
  EXPECT_EQ(reader->text("/", "run").value(), manifest_.run);
  const auto written = exported(path, {.output = dir_ / "new/folder"});
  ASSERT_TRUE(written.has_value()) << written.error().text();
  EXPECT_EQ(written->size(), 2U);
  const std::string weights = dir_ / "new/folder/model.safetensors";
  EXPECT_EQ(run(kChecker + weights + " --against " + consolidated), 0);
  EXPECT_EQ(run(kChecker + weights + " --against " + path + "/index.h5"), 0);
  // Nothing else stays behind, and a second time replaces.
  ASSERT_TRUE(exported(path, {.output = dir_ / "new/folder/"}).has_value());
  const auto left = files_->list(dir_ / "new/folder").value();
  ASSERT_EQ(left.size(), 2U);
  EXPECT_EQ(left[0].name, "config.json");
  EXPECT_EQ(left[1].name, "model.safetensors");
}

TEST_F(Export, LayoutAndBatchDoNotMatter) {
  ASSERT_TRUE(exported(saved(1), {.output = dir_ / "one"}).has_value());
  const std::string expected = read_file(dir_ / "one/model.safetensors");
  const TempDir other;
  const std::string halves = save_halves(*files_, other.path(), manifest_, state_).value();
  int count = 0;
  for (const std::int64_t batch : {1000, 6288, 6289, 7680, 1 << 24}) {
    ASSERT_TRUE(exported(halves, {.output = dir_ / "again", .batch_elems = batch}).has_value());
    EXPECT_EQ(read_file(dir_ / "again/model.safetensors"), expected) << batch;
    const std::string file = dir_ / fmt::format("{}.h5", batch);
    ASSERT_TRUE(
        exported(halves, {.output = file, .format = ExportFormat::hdf5, .batch_elems = batch})
            .has_value());
    expect_same_values(file, "/optimizer/exp_avg", Kind::exp_avg);
    ++count;
  }
  std::printf("campaign: %d batch sizes of export, equal files\n", count);
}

TEST_F(Export, OneKindAlone) {
  const std::string path = saved();
  const std::string file = dir_ / "moment.h5";
  ASSERT_TRUE(
      exported(path, {.output = file, .format = ExportFormat::hdf5, .kind = Kind::exp_avg_sq})
          .has_value());
  expect_same_values(file, "/optimizer/exp_avg_sq", Kind::exp_avg_sq);
  expect_error(hdf5::Reader::open(file)->dims("/model/wte.weight"), Code::data);
  ASSERT_TRUE(exported(path, {.output = dir_ / "m", .kind = Kind::exp_avg_sq}).has_value());
  const std::string bytes = read_file(dir_ / "m/exp_avg_sq.safetensors");
  EXPECT_FALSE(exists(*files_, dir_ / "m/config.json").value());  // it is no model
  // By name, ln_f.bias and ln_f.weight, then wpe and wte, are the last.
  const std::string last = bytes_of(state_.of(Kind::exp_avg_sq, 0));
  EXPECT_EQ(state_.tensors[0].name, "wte.weight");
  EXPECT_TRUE(bytes.ends_with(last));
}

TEST_F(Export, ConfigIsHuggingFaces) {
  const Json json = Json::parse(gpt2_config(manifest_, "here").value());
  EXPECT_EQ(json.at("model_type"), "gpt2");
  EXPECT_EQ(json.at("architectures"), Json::array({"GPT2LMHeadModel"}));
  EXPECT_EQ(json.at("n_layer"), data_.recipe.layers);
  EXPECT_EQ(json.at("n_head"), data_.recipe.heads);
  EXPECT_EQ(json.at("n_embd"), data_.recipe.hidden);
  EXPECT_EQ(json.at("n_positions"), data_.recipe.context);
  EXPECT_EQ(json.at("n_ctx"), data_.recipe.context);
  EXPECT_EQ(json.at("vocab_size"), data_.recipe.vocab);
  EXPECT_EQ(json.at("activation_function"), "gelu_new");
  EXPECT_EQ(json.at("layer_norm_epsilon"), 1e-5);
  for (const char* rate : {"attn_pdrop", "embd_pdrop", "resid_pdrop"})
    EXPECT_EQ(json.at(rate), 0.1) << rate;
  EXPECT_EQ(json.at("tie_word_embeddings"), true);
  EXPECT_TRUE(json.at("bos_token_id").is_null());
  EXPECT_TRUE(json.at("eos_token_id").is_null());
}

TEST_F(Export, RefusesWhatIsNoGpt2) {
  const Manifest good = manifest_;
  const auto refused = [&](const std::string& why) {
    EXPECT_THAT(expect_error(gpt2_config(manifest_, "here"), Code::usage), HasSubstr(why));
    manifest_ = good;
  };
  manifest_.config[1].second = "3";
  refused("lacks tensor");
  manifest_.config[1].second = "1";
  refused("do not describe tensor");
  manifest_.config[5].second = "132";
  refused("wte.weight");
  manifest_.config[3].second = "48x";
  refused("model.hidden");
  manifest_.config[2].second = "5";
  refused("");
  manifest_.tensors[0].name = "embedding";
  refused("embedding");
  manifest_.config.clear();
  refused("");
}

TEST_F(Export, DamageStopsItAndLeavesNothing) {
  const std::string path = saved();
  write_file(dir_ / "old.h5", "old");
  const Manifest manifest = checkpoint::read_manifest(*files_, path).value();
  for (const checkpoint::FileEntry& file : manifest.files) {
    if (file.pieces.empty()) continue;
    std::string bytes = read_file(path + "/" + file.name);
    bytes[static_cast<std::size_t>(file.pieces.front().offset_bytes) + 9] ^= 1;
    write_file(path + "/" + file.name, bytes);
  }
  const ExportOptions hdf5{.output = dir_ / "old.h5", .format = ExportFormat::hdf5};
  expect_error(exported(path, hdf5), Code::corrupt);
  EXPECT_EQ(read_file(dir_ / "old.h5"), "old");
  expect_error(exported(path, {.output = dir_ / "folder"}), Code::corrupt);
  EXPECT_TRUE(files_->list(dir_ / "folder").value().empty());
}

TEST_F(Export, NeverIntoTheCheckpoint) {
  const std::string path = saved();
  for (const std::string& output :
       {path, path + "/", path + "/export", path + "/shards/../x",
        dir_ / "checkpoints/./" + checkpoint::step_name(Step{12}) + "/y"})
    expect_error(exported(path, {.output = output}), Code::usage);
  EXPECT_TRUE(exported(path, {.output = path + "-export"}).has_value());
}

/// Logits after every token, [sample, position, vocab], by our own model from the saved weights.
std::vector<float> our_logits(const reference::ReferenceData& data, std::int64_t samples) {
  const spec::ModelConfig config = config_of(data.recipe);
  const auto ops = kernels::make_cpu_ops(kernels::Isa::automatic).value();
  device::CpuStream stream(1);
  const spec::Inventory inventory(config, DType::f32);
  const layout::BlockTable blocks = inventory.blocks();
  zero::TensorStore working(blocks, std::vector<std::int64_t>(inventory.tensors().size(), 4));
  for (std::int64_t index = 0; index < blocks.count(); ++index) {
    const layout::Block& block = blocks.block(index);
    const reference::Weight& weight = data.weights[static_cast<std::size_t>(block.part)];
    EXPECT_EQ(weight.name, inventory.tensor(block.part).name);
    std::memcpy(working.bytes(block).data(), weight.values.data() + block.begin,
                static_cast<std::size_t>(4 * block.elems));
  }
  const layers::Parameters parameters(inventory, working);
  gpt::Decoder decoder(*ops, stream, config, inventory, parameters);
  std::vector<float> logits;
  for (std::int64_t sample = 0; sample < samples; ++sample, decoder.reset())
    for (std::int64_t t = 0; t < config.context; ++t) {
      const std::int32_t id = reference::token(data.recipe, 1, sample, t);
      const auto row = decoder.advance(std::span(&id, 1)).value();
      logits.insert(logits.end(), row.begin(), row.end());
    }
  return logits;
}

TEST_F(Export, TransformersComputesOurLogits) {
  const char* python = std::getenv("ELASWAVE_REFERENCE_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "ELASWAVE_REFERENCE_PYTHON names no interpreter";
  constexpr std::int64_t kSamples = 3;
  ASSERT_TRUE(exported(saved(), {.output = dir_ / "hf"}).has_value());
  std::vector<float> logits = our_logits(data_, kSamples);
  std::string tokens;
  for (std::int64_t sample = 0; sample < kSamples; ++sample)
    for (std::int64_t t = 0; t < data_.recipe.context; ++t)
      tokens += fmt::format("{}{}", t > 0 ? "," : (sample > 0 ? ";" : ""),
                            reference::token(data_.recipe, 1, sample, t));
  const std::string check = fmt::format(
      "{} -B {}/tests/reference/transformers_check.py {} --tokens '{}' --shape {}x{}x{} --logits ",
      python, ELASWAVE_SOURCE_DIR, dir_ / "hf", tokens, kSamples, data_.recipe.context,
      data_.recipe.vocab);
  write_file(dir_ / "logits", bytes_of(logits));
  EXPECT_EQ(std::system((check + (dir_ / "logits")).c_str()), 0);
  for (float& logit : logits) logit *= 1 + 1e-5F;
  write_file(dir_ / "wrong", bytes_of(logits));
  EXPECT_NE(std::system((check + (dir_ / "wrong")).c_str()), 0);
  // The package whose format it is reads the same numbers.
  EXPECT_EQ(run(fmt::format("{} -B {}/scripts/check_safetensors.py {}/hf/model.safetensors", python,
                            ELASWAVE_SOURCE_DIR, dir_.path())),
            0);
}

}  // namespace
}  // namespace elaswave::app
