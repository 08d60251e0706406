// `elaswave --version`. Versions of header libraries are those this program was compiled with, of
// shared libraries those it runs with.
#include <fmt/format.h>
#include <spdlog/version.h>
#include <toml++/toml.h>

#include <CLI/Version.hpp>

#include "app/backends.h"
#include "app/commands.h"
#include "io/hdf5/file.h"
#include "model/kernels/cpu_ops.h"
#include "parallel/comm/world_mpi.h"

namespace elaswave::app {
namespace {

std::string numeric_class() {
  const auto ops = kernels::make_cpu_ops(kernels::Isa::automatic);
  return ops ? (*ops)->numeric_class() : fmt::format("none ({})", ops.error().why);
}

/// MPI names itself in up to several lines; the first says which it is.
std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

}  // namespace

std::string program_name() {
  return fmt::format("elaswave {}", ELASWAVE_VERSION);
}

std::string version_text() {
  std::string text = program_name() + "\n";
  const auto add = [&text](std::string_view name, std::string_view value) {
    text += fmt::format("  {:<14} {}\n", name, value);
  };
  add("mpi", first_line(comm::mpi_library_version()));
  add("onednn", kernels::gemm_library_version());
  add("hdf5", hdf5::library_version());
  add("cli11", CLI11_VERSION);
  add("spdlog", fmt::format("{}.{}.{}", SPDLOG_VER_MAJOR, SPDLOG_VER_MINOR, SPDLOG_VER_PATCH));
  add("toml++", fmt::format("{}.{}.{}", TOML_LIB_MAJOR, TOML_LIB_MINOR, TOML_LIB_PATCH));
  add("backends", backends_text());
  add("numeric class", numeric_class());
  return text;
}

}  // namespace elaswave::app
