// `elaswave data prepare | inspect | verify`: token files from the command line.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "app/commands.h"
#include "app/text.h"
#include "io/data/inspect.h"
#include "io/data/prepare.h"
#include "io/data/token_file.h"

namespace elaswave::app {
namespace {

void print_lines(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) std::printf("%s\n", line.c_str());
}

Result<data::InputKind> parse_kind(const std::string& text) {
  EW_ASSIGN(const std::string kind, parse_choice("--kind", text, {"auto", "text", "jsonl"}));
  if (kind == "text") return data::InputKind::text;
  return kind == "jsonl" ? data::InputKind::jsonl : data::InputKind::by_name;
}

Result<int> prepare(Arguments arguments) {
  data::PrepareOptions options;
  std::string kind = "auto";
  CLI::App app("Turns text or JSONL into a token file; bytes are the tokens.",
               "elaswave data prepare");
  app.add_option("--input", options.inputs, "files to read, in this order")->required();
  app.add_option("--output", options.output, "token file to write")->required();
  app.add_option("--val_output", options.val_output, "token file for the held-out end");
  app.add_option("--val_fraction", options.val_fraction, "share of the tokens held out")
      ->capture_default_str();
  app.add_option("--kind", kind, "auto (by name), text or jsonl")->capture_default_str();
  app.add_option("--jsonl_field", options.jsonl_field, "the JSONL member that holds the text")
      ->capture_default_str();
  EW_ASSIGN(const Parse parse, parse_arguments(app, arguments, "elaswave data prepare"));
  if (parse == Parse::helped) return 0;
  EW_ASSIGN(options.kind, parse_kind(kind));
  EW_ASSIGN(const data::PrepareReport report, data::prepare(options));
  print_lines(data::lines(report, options));
  return 0;
}

struct FormatWords {
  std::string format = "auto", type = "auto";
};

void add_format_options(CLI::App& app, FormatWords& words) {
  app.add_option("--format", words.format, "auto, elaswave, nanogpt, llmc or megatron")
      ->capture_default_str();
  app.add_option("--dtype", words.type, "auto, u8, u16 or i32: files that do not say")
      ->capture_default_str();
}

Result<int> inspect(Arguments arguments) {
  std::vector<std::string> files;
  FormatWords words;
  CLI::App app("Shows what is in token files.", "elaswave data inspect");
  app.add_option("FILE", files, "token files")->required();
  add_format_options(app, words);
  EW_ASSIGN(const Parse parse, parse_arguments(app, arguments, "elaswave data inspect"));
  if (parse == Parse::helped) return 0;
  EW_ASSIGN(const data::TokenFormat format, data::parse_token_format(words.format));
  EW_ASSIGN(const data::TokenType type, data::parse_token_type(words.type));
  int code = 0;
  for (const std::string& path : files) {
    EW_ASSIGN(const data::TokenFile file, data::TokenFile::open(path, format, type));
    const data::Inspection inspection = data::inspect(file);
    print_lines(data::lines(inspection));
    if (inspection.checksum == data::ChecksumState::bad) code = exit_code(Code::data);
  }
  return code;
}

Result<int> verify(Arguments arguments) {
  data::VerifyOptions options;
  FormatWords words;
  std::int64_t seed = 1337;
  CLI::App app("Proves that training sees every sample once and prints the sample hash of steps.",
               "elaswave data verify");
  app.add_option("FILE", options.files, "token files, read as one")->required();
  add_format_options(app, words);
  app.add_option("--seed", seed, "train.seed")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--context", options.context_tokens, "model.context, tokens")
      ->required()
      ->check(CLI::PositiveNumber);
  app.add_option("--global_batch", options.global_batch_samples, "train.global_batch, samples")
      ->required()
      ->check(CLI::PositiveNumber);
  app.add_option("--first_step", options.first_step, "first step to hash")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  auto* last = app.add_option("--last_step", options.last_step, "last step to hash; default: first")
                   ->check(CLI::PositiveNumber);
  app.add_option("--vocab", options.vocab, "ids must be below it; 0: as the file says")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  EW_ASSIGN(const Parse parse, parse_arguments(app, arguments, "elaswave data verify"));
  if (parse == Parse::helped) return 0;
  if (last->count() == 0) options.last_step = options.first_step;
  if (options.last_step < options.first_step)
    return command_line_error("--last_step is before --first_step",
                              fmt::format("{} < {}", options.last_step, options.first_step),
                              fmt::format("give --last_step={} or more", options.first_step));
  options.seed = static_cast<std::uint64_t>(seed);
  EW_ASSIGN(options.format, data::parse_token_format(words.format));
  EW_ASSIGN(options.type, data::parse_token_type(words.type));
  EW_ASSIGN(const data::Verification verification, data::verify(options));
  print_lines(data::lines(verification));
  return 0;
}

constexpr std::array<Subcommand, 3> kSubcommands = {{
    {"prepare", "turn text or JSONL into a token file", prepare},
    {"inspect", "show what is in token files", inspect},
    {"verify", "prove the sample cover, print sample hashes of steps", verify},
}};

}  // namespace

Result<int> data_command(Arguments arguments) {
  return run_subcommand("data", kSubcommands, arguments);
}

}  // namespace elaswave::app
