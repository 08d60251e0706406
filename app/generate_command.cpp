// `elaswave generate`: text from a checkpoint.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "app/commands.h"
#include "app/generate.h"
#include "app/text.h"
#include "io/base/log.h"
#include "model/kernels/cpu_ops.h"

namespace elaswave::app {
namespace {

struct Options {
  std::string checkpoint, prompt, prompt_tokens, isa = "auto";
  bool prompt_given = false, prompt_tokens_given = false;
  std::int64_t max_tokens = 0, seed = 1337, threads = 0;
  gpt::ChoiceRules rules;
};

Result<kernels::Isa> parse_isa(const std::string& text) {
  EW_ASSIGN(const std::string isa, parse_choice("--isa", text, {"auto", "avx2", "avx512"}));
  if (isa == "avx2") return kernels::Isa::avx2;
  return isa == "avx512" ? kernels::Isa::avx512 : kernels::Isa::automatic;
}

Result<Parse> parse(Arguments arguments, Options& options) {
  CLI::App app("Continues a text with the model of a checkpoint.", "elaswave generate");
  app.add_option("--checkpoint", options.checkpoint,
                 "run directory, its checkpoints/ or one checkpoint; of several the newest")
      ->required();
  auto* prompt = app.add_option("--prompt", options.prompt,
                                "text to go on from, for models of bytes; default: a new document");
  auto* ids = app.add_option("--prompt_tokens", options.prompt_tokens,
                             "the same as token ids, 1,2,3: for any tokenizer");
  app.add_option("--max_tokens", options.max_tokens, "how many tokens to add")->required();
  app.add_option("--seed", options.seed, "the same seed gives the same text")
      ->capture_default_str();
  app.add_option("--temperature", options.rules.temperature,
                 "below 1 likelier, above 1 wilder; 0: always the most probable token")
      ->capture_default_str();
  app.add_option("--top_k", options.rules.top_k,
                 "choose among so many of the most probable tokens; 0: all")
      ->capture_default_str();
  app.add_option("--top_p", options.rules.top_p,
                 "choose among the most probable tokens that hold this share of the mass; 1: all")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "compute threads; 0: as many as cores")
      ->capture_default_str();
  app.add_option("--isa", options.isa, "auto, avx2 or avx512")->capture_default_str();
  EW_ASSIGN(const Parse parse, parse_arguments(app, arguments, "elaswave generate"));
  options.prompt_given = prompt->count() > 0;
  options.prompt_tokens_given = ids->count() > 0;
  return parse;
}

Result<void> check(const Options& options) {
  if (options.prompt_given && options.prompt_tokens_given)
    return command_line_error("--prompt and --prompt_tokens were both given",
                              "a text has one beginning", "leave one of them out");
  // CLI11's own range checks print limits of 300 digits.
  const auto range = [](std::string_view name, std::int64_t value, std::int64_t least,
                        std::int64_t most) -> Result<void> {
    if (value >= least && value <= most) return {};
    return command_line_error(fmt::format("--{} is out of range", name),
                              fmt::format("it is {}; the range is {} to {}", value, least, most),
                              "give a value in that range");
  };
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  EW_TRY(range("max_tokens", options.max_tokens, 1, kMost));
  EW_TRY(range("seed", options.seed, 0, kMost));
  EW_TRY(range("threads", options.threads, 0, 4096));
  if (auto valid = gpt::validate(options.rules); !valid) {
    Error error = valid.error();
    error.where = "command line, --" + error.where;
    return fail(std::move(error));
  }
  return {};
}

/// What the model is given. REQUIRES: check(options).
Result<std::vector<std::int32_t>> prompt_of(const Options& options, const TextModel& model,
                                            std::vector<std::int32_t> ids) {
  if (options.prompt_given && !model.bytes_are_tokens())
    return command_line_error(
        "--prompt cannot be used with this model",
        model.tokenizer().empty()
            ? std::string("its checkpoint does not name a tokenizer")
            : fmt::format("its tokens come from the tokenizer '{}', which is not part of elaswave",
                          model.tokenizer()),
        "turn the text into ids with that tokenizer and give --prompt_tokens=1,2,3");
  return options.prompt_tokens_given ? std::move(ids) : byte_tokens(options.prompt);
}

/// Standard output: bytes, or ids with spaces between them; each token is shown at once.
class Printer {
 public:
  explicit Printer(bool bytes) : bytes_(bytes) {}

  Result<void> token(std::int32_t token) {
    if (bytes_) return write(std::string(1, token_byte(token)));
    const std::string text = fmt::format("{}{}", first_ ? "" : " ", token);
    first_ = false;
    return write(text);
  }
  Result<void> end() { return write("\n"); }

 private:
  static Result<void> write(const std::string& text) {
    errno = 0;
    if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0)
      return {};
    return fail({.code = Code::io,
                 .what = "the text cannot be written",
                 .where = "standard output",
                 .why = std::generic_category().message(errno),
                 .fix = "check where the output goes"});
  }

  bool bytes_;
  bool first_ = true;
};

double seconds(Nanoseconds time) {
  return static_cast<double>(time) / static_cast<double>(kSecond);
}

void print_speed(const GenerateReport& report) {
  // The first token needs no pass of its own: it comes from the prompt's.
  const double passes = static_cast<double>(report.tokens - 1);
  const double rate = report.time > 0 ? passes / seconds(report.time) : 0;
  fmt::print(stderr, "{} tokens in {:.2f} s, {:.1f} tokens/s, after a prompt of {} in {:.2f} s\n",
             report.tokens, seconds(report.time), rate, report.prompt_tokens,
             seconds(report.prompt_time));
}

}  // namespace

Result<int> generate_command(Arguments arguments) {
  Options options;
  EW_ASSIGN(const Parse parsed, parse(arguments, options));
  if (parsed == Parse::helped) return 0;
  configure_log(LogLevel::warn, "generate");  // to stderr: stdout is for the text alone
  EW_TRY(check(options));
  EW_ASSIGN(const kernels::Isa isa, parse_isa(options.isa));
  std::vector<std::int32_t> ids;
  if (options.prompt_tokens_given) {
    EW_ASSIGN(ids, parse_token_ids(options.prompt_tokens));
  }
  EW_ASSIGN(const auto ops, kernels::make_cpu_ops(isa));
  const auto files = make_file_system();
  EW_ASSIGN(const auto model, TextModel::load(*files, options.checkpoint));
  EW_ASSIGN(const std::vector<std::int32_t> prompt, prompt_of(options, *model, std::move(ids)));
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  device::CpuStream stream(options.threads > 0 ? static_cast<int>(options.threads)
                                               : std::max(1, cores));

  GenerateRequest request{.prompt = prompt,
                          .max_tokens = options.max_tokens,
                          .seed = static_cast<std::uint64_t>(options.seed),
                          .rules = options.rules};
  if (prompt.empty()) request.prompt = {start_token(*model)};
  EW_TRY(check_prompt(*model, request.prompt));  // before anything is shown
  Printer printer(model->bytes_are_tokens());
  for (const std::int32_t token : prompt) EW_TRY(printer.token(token));
  const RealClock clock;
  EW_ASSIGN(const GenerateReport report,
            generate(*model, {*ops, stream}, clock, request,
                     [&](std::int32_t token) { return printer.token(token); }));
  EW_TRY(printer.end());
  print_speed(report);
  return 0;
}

}  // namespace elaswave::app
