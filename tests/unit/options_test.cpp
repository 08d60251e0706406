// The option table: sources and their precedence, every kind of bad input, and the texts made from
// it.
#include "app/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "app/run_spec.h"
#include "app/text.h"

namespace elaswave::app {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string origin(const Settings& settings, std::string_view key) {
  return settings.origins.at(static_cast<std::size_t>(find_option(key)));
}

/// What a person would read, or "" when there was no error. Fails the test on half an error.
template <typename T>
std::string usage_error(const Result<T>& result) {
  if (result) return "";
  const Error& error = result.error();
  EXPECT_EQ(error.code, Code::usage) << error.text();
  EXPECT_FALSE(error.what.empty() || error.where.empty() || error.why.empty() || error.fix.empty())
      << error.text();
  return error.text();
}

class OptionsTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    dir_ = std::filesystem::path(testing::TempDir()) / fmt::format("options-{}", info->name());
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string write(const std::string& name, const std::string& text) {
    const std::string path = (dir_ / name).string();
    std::ofstream(path) << text;
    return path;
  }

  /// parse_train with a token file named, so that only what is under test can be wrong.
  static Result<TrainCommand> parse(std::vector<std::string> arguments,
                                    const Environment& environment = {}) {
    arguments.emplace_back("--data.train=corpus.tok");
    return parse_train(arguments, environment);
  }

  static std::string parse_error(std::vector<std::string> arguments,
                                 const Environment& environment = {}) {
    const std::string text = usage_error(parse(std::move(arguments), environment));
    EXPECT_FALSE(text.empty());
    return text;
  }

  std::string file_error(const std::string& text) {
    return parse_error({"--config", write("bad.toml", text)});
  }

  std::filesystem::path dir_;
};

TEST_F(OptionsTest, TableIsComplete) {
  std::set<std::string> keys;
  std::set<const void*> fields;
  Config config;
  for (const Option& option : option_table()) {
    EXPECT_TRUE(keys.insert(option.key).second) << option.key << " is there twice";
    std::visit([&](auto* field) { EXPECT_TRUE(fields.insert(field).second) << option.key; },
               option.field(config));
    EXPECT_FALSE(option.help.empty()) << option.key;
    EXPECT_EQ(option.help.find('\n'), std::string::npos) << option.key;
    EXPECT_EQ(std::count(option.key.begin(), option.key.end(), '.'), 1) << option.key;
    // A default that its own table would refuse could not survive --print-config.
    Settings settings;
    const std::int64_t row = find_option(option.key);
    const Value value = std::visit([](auto* field) { return Value(*field); }, option.field(config));
    EXPECT_TRUE(assign(settings, row, value, {"here", "here"})) << option.key;
  }
}

TEST_F(OptionsTest, DefaultsAreThoseOfConfig) {
  const auto command = parse({});
  ASSERT_TRUE(command);
  EXPECT_EQ(command->settings.config.train.steps, Config{}.train.steps);
  EXPECT_EQ(origin(command->settings, "train.steps"), "default");
  EXPECT_EQ(origin(command->settings, "data.train"), "command line");
}

TEST_F(OptionsTest, CommandLineForms) {
  const auto command =
      parse({"--train.steps=7", "--train.micro-batch", "3", "--train.global-batch=9",
             "--model.dropout", "-1", "--no-train.val_last", "--comm.checksum", "--train.lr=1e-2",
             "--data.val=a", "--data.val=b,c", "--data.val=[x,y]", "--log.dir="});
  ASSERT_TRUE(command) << command.error().text();
  const Config& config = command->settings.config;
  EXPECT_EQ(config.train.steps, 7);
  EXPECT_EQ(config.train.micro_batch, 3);
  EXPECT_EQ(config.train.global_batch, 9);
  EXPECT_EQ(config.model.dropout, -1);
  EXPECT_FALSE(config.train.val_last);
  EXPECT_TRUE(config.comm.checksum);
  EXPECT_EQ(config.train.lr, 0.01);
  EXPECT_EQ(config.data.val, (std::vector<std::string>{"a", "b,c", "[x,y]"}));
  EXPECT_EQ(config.log.dir, "");
  EXPECT_EQ(config.data.train, std::vector<std::string>{"corpus.tok"});  // not taken by --log.dir=
  EXPECT_EQ(origin(command->settings, "log.dir"), "command line");
}

TEST_F(OptionsTest, BooleanForms) {
  const auto value = [](const std::string& argument) {
    const auto command = parse({argument});
    EXPECT_TRUE(command) << command.error().text();
    return command->settings.config.train.val_last;
  };
  EXPECT_FALSE(value("--train.val_last=false"));
  EXPECT_FALSE(value("--train.val-last=0"));
  EXPECT_FALSE(value("--no-train.val-last"));
  EXPECT_TRUE(value("--train.val_last=true"));
  EXPECT_TRUE(value("--train.val_last"));
  EXPECT_THAT(parse_error({"--train.val_last=maybe"}), HasSubstr("boolean"));
  EXPECT_THAT(parse_error({"--train.val_last", "--no-train.val_last"}), HasSubstr("2 times"));
  EXPECT_THAT(parse_error({"--no-train.steps"}), HasSubstr("not a boolean"));
}

TEST_F(OptionsTest, Precedence) {
  const std::string first = write("first.toml", "[train]\nsteps = 1\nseed = 1\nwarmup_steps = 1\n");
  const std::string second = write("second.toml", "[train]\nsteps = 2\nseed = 2\n\nclip = 2\n");
  const auto command = parse({"--config", first, "--config=" + second, "--train.steps=4"},
                             {{"ELASWAVE_TRAIN_STEPS", "3"}, {"ELASWAVE_TRAIN_SEED", "3"}});
  ASSERT_TRUE(command) << command.error().text();
  const Settings& settings = command->settings;
  EXPECT_EQ(settings.config.train.steps, 4);
  EXPECT_EQ(origin(settings, "train.steps"), "command line");
  EXPECT_EQ(settings.config.train.seed, 3);
  EXPECT_EQ(origin(settings, "train.seed"), "environment ELASWAVE_TRAIN_SEED");
  EXPECT_EQ(settings.config.train.clip, 2.0);  // an integer is a number
  EXPECT_EQ(origin(settings, "train.clip"), second + ":5");
  EXPECT_EQ(settings.config.train.warmup_steps, 1);
  EXPECT_EQ(origin(settings, "train.warmup_steps"), first + ":4");
  EXPECT_EQ(origin(settings, "train.lr"), "default");
}

TEST_F(OptionsTest, EnvironmentLists) {
  const auto command = parse_train({}, {{"ELASWAVE_DATA_TRAIN", "a:b"}});
  ASSERT_TRUE(command) << command.error().text();
  EXPECT_EQ(command->settings.config.data.train, (std::vector<std::string>{"a", "b"}));
}

TEST_F(OptionsTest, EnvironmentOfOthersIsLeftAlone) {
  EXPECT_TRUE(parse({}, {{"ELASWAVE_RUN_DIR", "/x"}, {"ELASWAVE_TRAIN", "x"}}));
  EXPECT_THAT(parse_error({}, {{"ELASWAVE_TRAIN_STEPZ", "1"}}),
              AllOf(HasSubstr("ELASWAVE_TRAIN_STEPZ"), HasSubstr("ELASWAVE_TRAIN_STEPS?")));
  EXPECT_THAT(parse_error({}, {{"ELASWAVE_TRAIN_STEPS", "many"}}),
              AllOf(HasSubstr("environment, ELASWAVE_TRAIN_STEPS"), HasSubstr("integer")));
}

TEST_F(OptionsTest, CommandLineMistakes) {
  EXPECT_THAT(parse_error({"--train.stepz=3"}), HasSubstr("did you mean --train.steps?"));
  EXPECT_THAT(parse_error({"--micro_batch=3"}), HasSubstr("did you mean --train.micro_batch?"));
  EXPECT_THAT(parse_error({"--no-train.val_lst"}), HasSubstr("--no-train.val_last?"));
  EXPECT_THAT(parse_error({"--print-confg"}), HasSubstr("--print-config?"));
  EXPECT_THAT(parse_error({"--zzzzzzzzzzzz=1"}), HasSubstr("train --help"));
  EXPECT_THAT(parse_error({"run.toml"}), HasSubstr("--config=FILE"));
  EXPECT_THAT(parse_error({"-q"}), HasSubstr("'-q'"));
  EXPECT_THAT(parse_error({"--train.steps=1", "--train.steps=1"}), HasSubstr("2 times"));
  EXPECT_THAT(parse_error({"--train.steps"}), HasSubstr("no value"));
  EXPECT_THAT(parse_error({"--log.dir", "--train.steps=3"}), HasSubstr("--log.dir has no value"));
  EXPECT_THAT(parse_error({"--config"}), HasSubstr("no value"));
  EXPECT_THAT(parse_error({"--config="}), HasSubstr("no value"));
  EXPECT_THAT(parse_error({"--train.val_last="}), HasSubstr("no value"));
  EXPECT_THAT(parse_error({"--config=absent.toml"}), HasSubstr("absent.toml"));
  EXPECT_THAT(parse_error({"--config=" + dir_.string()}), HasSubstr("not a file"));
}

TEST_F(OptionsTest, IllTypedAndOutOfRange) {
  for (const char* text : {"x", "", "1.5", "1e3", "7 ", "99999999999999999999", "0x10"})
    EXPECT_THAT(parse_error({fmt::format("--train.steps={}", text)}),
                AllOf(HasSubstr("integer"), HasSubstr(">= 1")))
        << text;
  EXPECT_THAT(parse_error({"--train.lr=fast"}), HasSubstr("number"));
  EXPECT_THAT(parse_error({"--train.lr=0"}), HasSubstr("> 0"));
  EXPECT_THAT(parse_error({"--train.lr=inf"}), HasSubstr("range"));
  EXPECT_THAT(parse_error({"--train.lr=nan"}), HasSubstr("range"));
  EXPECT_THAT(parse_error({"--train.beta1=1"}), HasSubstr("0 to below 1"));
  EXPECT_THAT(parse_error({"--model.dropout=1"}), HasSubstr("-1 to below 1"));
  EXPECT_THAT(parse_error({"--train.steps=0"}), HasSubstr("it is 0"));
  EXPECT_THAT(parse_error({"--train.seed=-1"}), HasSubstr("it is -1"));
  EXPECT_THAT(parse_error({"--train.lr_schedule=cosin"}), HasSubstr("did you mean cosine?"));
  EXPECT_THAT(parse_error({"--model.preset=gpt2-124M"}), HasSubstr("did you mean gpt2-124m?"));
  EXPECT_THAT(parse_error({"--device.isa=sse"}), HasSubstr("auto, avx2, avx512"));
  EXPECT_THAT(parse_error({"--data.val="}), HasSubstr("data.val"));
}

TEST_F(OptionsTest, CrossChecks) {
  EXPECT_THAT(parse_error({"--train.micro_batch=6", "--train.global_batch=20"}),
              AllOf(HasSubstr("18 or 24"), HasSubstr("train.micro_batch=5"),
                    HasSubstr("train.global_batch (command line)")));
  EXPECT_THAT(parse_error({"--train.micro_batch=64"}),
              AllOf(HasSubstr("train.global_batch=64"), HasSubstr("train.global_batch (default)")));
  EXPECT_THAT(parse_error({"--model.preset=tiny", "--model.hidden=65"}),
              AllOf(HasSubstr("64 or 68"), HasSubstr("model.hidden (command line)")));
  EXPECT_THAT(parse_error({"--train.lr=1e-5"}), HasSubstr("train.min_lr"));
  EXPECT_TRUE(parse({"--train.lr=1e-5", "--train.lr_schedule=constant"}));
  EXPECT_THAT(parse_error({"--train.val_every=10"}), HasSubstr("data.val"));
  EXPECT_TRUE(parse({"--train.val_every=10", "--data.val=v"}));
}

TEST_F(OptionsTest, AMessageIsSpoiledOnlyWhereThatIsNoticed) {
  const std::string fault = "--chaos.corrupt=what=message,rank=0,step=1";
  EXPECT_THAT(parse_error({fault}),
              AllOf(HasSubstr("chaos.corrupt (command line)"), HasSubstr("--comm.checksum=true")));
  EXPECT_TRUE(parse({fault, "--comm.checksum=true"}));
  EXPECT_TRUE(parse({"--chaos.corrupt=what=copy,rank=0,step=1"}));
}

TEST_F(OptionsTest, NeedsDataOnlyToRun) {
  EXPECT_THAT(usage_error(parse_train({}, {})), HasSubstr("data prepare"));
  const std::vector<std::string> print = {"--print-config"};
  const auto command = parse_train(print, {});
  ASSERT_TRUE(command);
  EXPECT_EQ(command->wish, TrainWish::print_config);
  const std::vector<std::string> help = {"--help", "--train.steps=x"};
  ASSERT_TRUE(parse_train(help, {}));
  EXPECT_EQ(parse_train(help, {})->wish, TrainWish::help);
}

TEST_F(OptionsTest, FileMistakesNameLineAndColumn) {
  EXPECT_THAT(file_error("[train]\nsteps = 1\nstepz = 2\n"),
              AllOf(HasSubstr("bad.toml:3:1"), HasSubstr("'train.stepz'"),
                    HasSubstr("did you mean train.steps?")));
  EXPECT_THAT(file_error("[trian]\n"), AllOf(HasSubstr("bad.toml:1:"), HasSubstr("'trian'")));
  EXPECT_THAT(file_error("[train]\nsteps = \"7\"\n"),
              AllOf(HasSubstr("bad.toml:2:9"), HasSubstr("expected: integer"), HasSubstr("'7'")));
  EXPECT_THAT(file_error("[train]\nsteps = 1.0\n"), HasSubstr("expected: integer"));
  EXPECT_THAT(file_error("[train]\nsteps = 0\n"), AllOf(HasSubstr(":2:9"), HasSubstr(">= 1")));
  EXPECT_THAT(file_error("[train]\nsteps = true\n"), HasSubstr("found: true"));
  EXPECT_THAT(file_error("[train]\nsteps = [1]\n"), HasSubstr("a list of something else"));
  EXPECT_THAT(file_error("[train.steps]\nx = 1\n"), HasSubstr("a table"));
  EXPECT_THAT(file_error("[[train]]\nsteps = 1\n"), HasSubstr("'train'"));
  EXPECT_THAT(file_error("train = 1\n"), HasSubstr("'train'"));
  EXPECT_THAT(file_error("[log]\ndir = 1979-05-27\n"), HasSubstr("a date or time"));
  EXPECT_THAT(file_error("[data]\ntrain = [\"a\", 1]\n"), HasSubstr("data.train"));
  EXPECT_THAT(file_error("[train]\nsteps = 1\nsteps = 2\n"), HasSubstr("bad.toml:3:"));
  EXPECT_THAT(file_error("[train]\nmicro-batch = 1\nmicro_batch = 1\n"), HasSubstr("twice"));
  EXPECT_THAT(file_error("[train\nsteps = 1\n"), HasSubstr("bad.toml:1:"));
  EXPECT_THAT(file_error("steps = \n"), HasSubstr("bad.toml:1:"));
  EXPECT_THAT(file_error(std::string("\xff\xfe\x00garbage", 10)), HasSubstr("bad.toml"));
}

TEST_F(OptionsTest, FileForms) {
  const std::string path = write("forms.toml",
                                 "train.steps = 5\n[data]\ntrain = \"one\"\nval = [\"a\", \"b\"]\n"
                                 "[train]\nmicro-batch = 2\nval_last = false\nlr = 1\n");
  const auto command = parse({"--config", path, "--train.min_lr=0"});
  // [train] after train.steps redefines a table: TOML forbids it, and so do we, with a line.
  EXPECT_THAT(usage_error(command), HasSubstr("forms.toml:5"));
  const std::string good = write("good.toml",
                                 "[data]\ntrain = \"one\"\nval = [\"a\", \"b\"]\n"
                                 "[train]\nmicro-batch = 2\nval_last = false\nlr = 1\n");
  const std::vector<std::string> arguments = {"--config", good};
  const auto read = parse_train(arguments, {});
  ASSERT_TRUE(read) << read.error().text();
  EXPECT_EQ(read->settings.config.data.train, std::vector<std::string>{"one"});
  EXPECT_EQ(read->settings.config.data.val, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(read->settings.config.train.micro_batch, 2);
  EXPECT_FALSE(read->settings.config.train.val_last);
  EXPECT_EQ(read->settings.config.train.lr, 1.0);
}

TEST_F(OptionsTest, Includes) {
  std::filesystem::create_directories(dir_ / "base");
  write("base/common.toml", "[train]\nsteps = 1\nseed = 1\n");
  const std::string outer =
      write("outer.toml", "include = \"base/common.toml\"\n[train]\nsteps = 2\n");
  const auto command = parse({"--config", outer});
  ASSERT_TRUE(command) << command.error().text();
  EXPECT_EQ(command->settings.config.train.steps, 2);  // the includer wins
  EXPECT_EQ(command->settings.config.train.seed, 1);
  EXPECT_THAT(origin(command->settings, "train.seed"), HasSubstr("base/common.toml:3"));

  write("a.toml", "include = \"b.toml\"\n");
  write("b.toml", "include = [\"a.toml\"]\n");
  EXPECT_THAT(parse_error({"--config", (dir_ / "a.toml").string()}),
              AllOf(HasSubstr("within itself"), HasSubstr("b.toml:1:")));
  EXPECT_THAT(file_error("include = 3\n"), HasSubstr("include"));
  EXPECT_THAT(file_error("include = \"absent.toml\"\n"),
              AllOf(HasSubstr("absent.toml"), HasSubstr("bad.toml:1:11")));
}

TEST_F(OptionsTest, PrintConfigRoundTrips) {
  const auto first =
      parse({"--train.steps=7", "--train.lr=0.1", "--model.dropout=0.25",
             "--log.dir=a \"quoted\"\\path\n\x7f", "--no-train.val_last", "--data.val=x",
             "--data.val=y", "--train.epsilon=1e-8", "--train.weight_decay=0.30000000000000004",
             "--train.seed=9007199254740991"});
  ASSERT_TRUE(first) << first.error().text();
  const std::string text = config_toml(first->settings);
  EXPECT_THAT(text, HasSubstr("# command line"));
  const std::vector<std::string> arguments = {"--config", write("printed\n.toml", text)};
  const auto second = parse_train(arguments, {});
  ASSERT_TRUE(second) << second.error().text();
  for (const Option& option : option_table()) {
    EXPECT_EQ(value_text(option, first->settings.config),
              value_text(option, second->settings.config))
        << option.key;
    EXPECT_THAT(origin(second->settings, option.key), HasSubstr("printed")) << option.key;
  }
  // An origin with a line break in it must not break the file it is a comment of.
  const std::vector<std::string> again = {"--config",
                                          write("again.toml", config_toml(second->settings))};
  EXPECT_TRUE(parse_train(again, {}));
}

TEST_F(OptionsTest, TextsCoverTheTable) {
  const std::string help = train_help();
  const std::string markdown = options_markdown();
  EXPECT_TRUE(markdown.starts_with(kMarkdownBegin));
  EXPECT_THAT(markdown, HasSubstr(std::string(kMarkdownEnd) + "\n"));
  std::int64_t rows = 0;
  for (const Option& option : option_table()) {
    EXPECT_THAT(help, HasSubstr("--" + option.key + " "));
    EXPECT_THAT(help, HasSubstr(option.help));
    EXPECT_THAT(markdown, HasSubstr("| `" + option.key + "` |"));
    ++rows;
  }
  EXPECT_EQ(std::count(markdown.begin(), markdown.end(), '\n'), rows + 4);
}

TEST_F(OptionsTest, ShippedConfigurationsAreLegal) {
  std::int64_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(ELASWAVE_SOURCE_DIR "/configs")) {
    ++files;
    const std::string path = entry.path().string();
    const auto command = parse({"--config", path, "--data.val=v"});
    EXPECT_TRUE(command) << command.error().text();
    std::ifstream file(path);
    std::string first;
    std::getline(file, first);
    EXPECT_THAT(first, AllOf(HasSubstr("# Hardware: "), HasSubstr("Expected loss: "),
                             HasSubstr("Expected tokens/s: ")))
        << path;
  }
  EXPECT_GE(files, 6);
}

TEST_F(OptionsTest, TinyFitsEveryTestLayout) {
  const auto command = parse({"--config", ELASWAVE_SOURCE_DIR "/configs/tiny.toml"});
  ASSERT_TRUE(command) << command.error().text();
  const auto spec = resolve(command->settings.config);
  ASSERT_TRUE(spec);
  EXPECT_EQ(spec->model.layers % 8, 0);  // pipeline 4 times 2 chunks
  EXPECT_EQ(spec->model.heads % 4, 0);   // tensor degree 4
  EXPECT_EQ(spec->model.hidden % 4, 0);
  EXPECT_EQ(spec->model.context % 2, 1);
  EXPECT_GT(spec->model.dropout, 0);
  EXPECT_GT(spec->adamw.weight_decay, 0);
  EXPECT_GT(spec->adamw.clip, 0);
  EXPECT_GE(spec->micro_batches, 8);
  EXPECT_NE(spec->micro_batches % 3, 0);
  EXPECT_GT(command->settings.config.train.decay_steps, 0);  // steps alone must not change the run
}

TEST(TextTest, EditDistance) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("abc", ""), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("sitting", "kitten"), 3);
}

TEST(TextTest, Nearest) {
  const std::vector<std::string> words = {"train.steps", "train.seed", "log.every"};
  EXPECT_EQ(nearest("train.step", words), "train.steps");
  EXPECT_EQ(nearest("train.sed", words), "train.seed");
  EXPECT_EQ(nearest("steps", words), "train.steps");
  EXPECT_EQ(nearest("qqqqqqqqqqq", words), "");
  EXPECT_EQ(nearest("", words), "");
  EXPECT_EQ(nearest("ab", std::vector<std::string>{"cd"}), "");
}

}  // namespace
}  // namespace elaswave::app
