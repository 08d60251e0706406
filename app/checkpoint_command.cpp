// `elaswave checkpoint ls | inspect | verify | diff | reindex | export`: checkpoints from the
// command line.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "app/checkpoint_tools.h"
#include "app/commands.h"
#include "app/export.h"
#include "app/text.h"
#include "io/checkpoint/store.h"

namespace elaswave::app {
namespace {

constexpr std::string_view kPathHelp = "run directory, its checkpoints/ or one checkpoint";

void print_lines(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) std::printf("%s\n", line.c_str());
}

void add_path(CLI::App& app, std::string& path) {
  app.add_option("DIR", path, std::string(kPathHelp))->required();
}

Result<int> ls(Arguments arguments) {
  std::string path;
  CLI::App app("Lists checkpoints; contents are not read.", "elaswave checkpoint ls");
  add_path(app, path);
  EW_ASSIGN(const Parse parse, parse_arguments(app, arguments, "elaswave checkpoint ls"));
  if (parse == Parse::helped) return 0;
  const auto files = make_file_system();
  EW_ASSIGN(const Listing listing, list_checkpoints(*files, path));
  print_lines(lines(listing));
  return 0;
}

Result<int> inspect(Arguments arguments) {
  std::string path;
  bool pieces = false, json = false;
  CLI::App app("Shows what the newest checkpoint holds; contents are not read.",
               "elaswave checkpoint inspect");
  add_path(app, path);
  app.add_flag("--pieces", pieces, "also where each run of elements lies");
  app.add_flag("--json", json, "print the manifest itself");
  EW_ASSIGN(const Parse parse, parse_arguments(app, arguments, "elaswave checkpoint inspect"));
  if (parse == Parse::helped) return 0;
  const auto files = make_file_system();
  EW_ASSIGN(const std::string found, checkpoint::find_checkpoint(*files, path));
  EW_ASSIGN(const checkpoint::Manifest manifest, checkpoint::read_manifest(*files, found));
  if (json) {
    std::fputs(checkpoint::to_text(manifest).c_str(), stdout);
    return 0;
  }
  std::printf("%s\n", found.c_str());
  print_lines(describe(manifest, pieces ? Pieces::shown : Pieces::hidden));
  return 0;
}

Result<int> verify(Arguments arguments) {
  std::string path;
  bool all = false;
  CLI::App app("Reads every byte of the newest checkpoint. Exit code 9 when it is damaged.",
               "elaswave checkpoint verify");
  add_path(app, path);
  app.add_flag("--all", all, "every checkpoint, not the newest alone");
  EW_ASSIGN(const Parse parse, parse_arguments(app, arguments, "elaswave checkpoint verify"));
  if (parse == Parse::helped) return 0;
  const auto files = make_file_system();
  const RealClock clock;
  EW_ASSIGN(const std::vector<std::string> selected,
            select_checkpoints(*files, path, all ? Selection::all : Selection::newest));
  int code = 0;
  for (const std::string& one : selected) {
    const Verification verification = verify_checkpoint(*files, clock, one);
    print_lines(lines(verification, one));
    if (!verification.damages.empty()) code = exit_code(Code::corrupt);
  }
  return code;
}

Result<int> diff(Arguments arguments) {
  std::string a, b;
  CLI::App app(
      "Shows where two checkpoints differ, as A | B. Exit code 0: the same training state (tensors "
      "bit for bit, step, updates, samples, tokens), whatever else differs; 1: another.",
      "elaswave checkpoint diff");
  app.add_option("A", a, std::string(kPathHelp))->required();
  app.add_option("B", b, std::string(kPathHelp))->required();
  EW_ASSIGN(const Parse parse, parse_arguments(app, arguments, "elaswave checkpoint diff"));
  if (parse == Parse::helped) return 0;
  const auto files = make_file_system();
  EW_ASSIGN(const CheckpointDifference difference, diff_checkpoints(*files, a, b));
  print_lines(lines(difference));
  return difference.same_state() ? 0 : 1;
}

Result<int> reindex(Arguments arguments) {
  std::string path;
  CLI::App app("Makes index.h5 of the newest checkpoint anew from its manifest.",
               "elaswave checkpoint reindex");
  add_path(app, path);
  EW_ASSIGN(const Parse parse, parse_arguments(app, arguments, "elaswave checkpoint reindex"));
  if (parse == Parse::helped) return 0;
  const auto files = make_file_system();
  EW_ASSIGN(const Reindexed done, app::reindex(*files, path));
  switch (done) {
    case Reindexed::unchanged:
      std::printf("index.h5 is as it should be\n");
      break;
    case Reindexed::index_replaced:
      std::printf("index.h5 was made again, with the bytes the manifest knows\n");
      break;
    case Reindexed::index_and_manifest_replaced:
      std::printf("index.h5 was made again; this HDF5 writes other bytes, the manifest has them\n");
      break;
  }
  return 0;
}

Result<int> export_to(Arguments arguments) {
  std::string path, format = "safetensors", kind;
  ExportOptions options;
  CLI::App app("Writes the newest checkpoint as one file for other programs.",
               "elaswave checkpoint export");
  add_path(app, path);
  app.add_option("--output", options.output,
                 "safetensors: folder that gets model.safetensors and config.json; hdf5: file")
      ->required();
  app.add_option("--format", format, "safetensors (Hugging Face's GPT-2) or hdf5")
      ->capture_default_str();
  app.add_option("--kind", kind,
                 "master, exp_avg or exp_avg_sq; default: master as safetensors, all as hdf5");
  EW_ASSIGN(const Parse parse, parse_arguments(app, arguments, "elaswave checkpoint export"));
  if (parse == Parse::helped) return 0;
  EW_ASSIGN(format, parse_choice("--format", format, {"safetensors", "hdf5"}));
  if (format == "hdf5") options.format = ExportFormat::hdf5;
  if (!kind.empty()) {
    const auto& names = checkpoint::kKindNames;
    EW_ASSIGN(kind, parse_choice("--kind", kind, {names.begin(), names.end()}));
    options.kind =
        static_cast<checkpoint::Kind>(std::find(names.begin(), names.end(), kind) - names.begin());
  }
  const auto files = make_file_system();
  EW_ASSIGN(const std::string found, checkpoint::find_checkpoint(*files, path));
  EW_ASSIGN(const std::vector<std::string> written, export_checkpoint(*files, found, options));
  print_lines(written);
  return 0;
}

constexpr std::array<Subcommand, 6> kSubcommands = {{
    {"ls", "list checkpoints", ls},
    {"inspect", "show what one holds", inspect},
    {"verify", "read every byte, name every damage", verify},
    {"diff", "show where two differ", diff},
    {"reindex", "make index.h5 anew", reindex},
    {"export", "write one file for other programs: safetensors or hdf5", export_to},
}};

}  // namespace

Result<int> checkpoint_command(Arguments arguments) {
  return run_subcommand("checkpoint", kSubcommands, arguments);
}

}  // namespace elaswave::app
