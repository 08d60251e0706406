#include "app/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <utility>

#include "app/memory.h"
#include "io/checkpoint/reader.h"
#include "io/checkpoint/safetensors.h"
#include "io/checkpoint/store.h"
#include "io/hdf5/file.h"

namespace elaswave::app {
namespace {

using checkpoint::Kind;
using checkpoint::Manifest;
using checkpoint::Tensor;

// Written at a time.
constexpr std::int64_t kPartElems = std::int64_t{1} << 20;
// As GPT2LMHeadModel names the weights of its body.
constexpr std::string_view kPrefix = "transformer.";

struct Input {
  FileSystem& files;
  const std::string& checkpoint;
  const Manifest& manifest;
  std::int64_t batch_elems;
};

/// Consecutive elements of one array, all within a batch.
struct Part {
  std::int32_t tensor = 0;
  Kind kind = Kind::master;
  std::int64_t begin = 0, elems = 0;
};

using Sink = std::function<Result<void>(const Part&, std::span<const float>)>;

Result<void> pass_batch(const Input& input, std::span<const Part> parts, std::span<float> buffer,
                        const Sink& sink) {
  std::vector<checkpoint::Want> wants;
  std::span<float> rest = buffer;
  for (const Part& part : parts) {
    wants.push_back(
        {part.tensor, part.kind, part.begin, rest.first(static_cast<std::size_t>(part.elems))});
    rest = rest.subspan(static_cast<std::size_t>(part.elems));
  }
  EW_TRY(checkpoint::read_wants(input.files, input.checkpoint, input.manifest, wants));
  for (std::size_t i = 0; i < parts.size(); ++i) EW_TRY(sink(parts[i], wants[i].out));
  return {};
}

/// Hands all elements of the tensors to `sink`, in this order.
Result<void> stream(const Input& input, std::span<const std::pair<std::int32_t, Kind>> arrays,
                    const Sink& sink) {
  std::vector<float> buffer;
  std::vector<Part> parts;
  std::int64_t held = 0;
  const auto pass = [&]() -> Result<void> {
    buffer.resize(std::max(buffer.size(), static_cast<std::size_t>(held)));
    EW_TRY(pass_batch(input, std::exchange(parts, {}), buffer, sink));
    held = 0;
    return {};
  };
  for (const auto& [tensor, kind] : arrays) {
    const std::int64_t elems = input.manifest.tensors[static_cast<std::size_t>(tensor)].elems();
    for (std::int64_t begin = 0; begin < elems;) {
      const std::int64_t taken = std::min(elems - begin, input.batch_elems - held);
      parts.push_back({tensor, kind, begin, taken});
      begin += taken;
      held += taken;
      if (held == input.batch_elems) EW_TRY(pass());
    }
  }
  return pass();
}

/// The arrays of a kind in the order of their names, as a safetensors file holds them.
std::vector<std::pair<std::int32_t, Kind>> arrays_by_name(const Manifest& manifest, Kind kind) {
  std::vector<std::pair<std::int32_t, Kind>> arrays;
  arrays.reserve(manifest.tensors.size());
  for (std::int32_t tensor = 0; tensor < std::ssize(manifest.tensors); ++tensor)
    arrays.emplace_back(tensor, kind);
  std::sort(arrays.begin(), arrays.end(), [&](const auto& a, const auto& b) {
    return manifest.tensors[static_cast<std::size_t>(a.first)].name <
           manifest.tensors[static_cast<std::size_t>(b.first)].name;
  });
  return arrays;
}

Result<void> write_safetensors(const Input& input, Kind kind, const std::string& path) {
  const Manifest& manifest = input.manifest;
  const auto arrays = arrays_by_name(manifest, kind);
  std::vector<Tensor> tensors;
  for (const auto& [tensor, unused] : arrays) {
    const Tensor& source = manifest.tensors[static_cast<std::size_t>(tensor)];
    tensors.push_back({std::string(kPrefix) + source.name, source.shape});
  }
  const checkpoint::Facts metadata = {{"writer", manifest.writer},
                                      {"run", manifest.run},
                                      {"step", fmt::format("{}", raw(manifest.step))},
                                      {"kind", std::string(name(kind))}};
  EW_ASSIGN(auto writer,
            checkpoint::SafetensorsWriter::create(input.files, path, std::move(tensors), metadata));
  std::int64_t next = 0;  // in the file
  const Sink sink = [&](const Part& part, std::span<const float> values) -> Result<void> {
    // Tensors come in the file's order; a prefix does not change it.
    if (arrays[static_cast<std::size_t>(next)].first != part.tensor) ++next;
    while (!values.empty()) {
      const auto some = values.first(std::min<std::size_t>(kPartElems, values.size()));
      EW_TRY(writer.write(next, some));
      values = values.subspan(some.size());
    }
    return {};
  };
  EW_TRY(stream(input, arrays, sink));
  return writer.close();
}

std::string group_of(Kind kind) {
  return kind == Kind::master ? "/model" : fmt::format("/optimizer/{}", name(kind));
}

Result<void> write_facts(hdf5::Writer& writer, const std::string& group,
                         const checkpoint::Facts& facts) {
  EW_TRY(writer.create_group(group));
  for (const auto& [key, value] : facts) EW_TRY(writer.set_text(group, key, value));
  return {};
}

/// As in index.h5.
Result<void> write_attributes(const Manifest& manifest, hdf5::Writer& writer) {
  EW_TRY(writer.set_text("/", "format", "elaswave-export"));
  EW_TRY(writer.set_i64("/", "format_version", checkpoint::kFormatVersion));
  EW_TRY(writer.set_text("/", "run", manifest.run));
  EW_TRY(writer.set_text("/", "writer", manifest.writer));
  EW_TRY(writer.set_text("/", "created", manifest.created));
  EW_TRY(writer.set_i64("/", "step", raw(manifest.step)));
  EW_TRY(writer.set_i64("/", "generation", raw(manifest.generation)));
  EW_TRY(writer.create_group("/trainer"));
  EW_TRY(writer.set_i64("/trainer", "step", raw(manifest.step)));
  EW_TRY(writer.set_i64("/trainer", "updates", manifest.updates));
  EW_TRY(writer.set_i64("/trainer", "samples", manifest.samples));
  EW_TRY(writer.set_i64("/trainer", "tokens", manifest.tokens));
  EW_TRY(writer.set_f64("/trainer", "loss", manifest.loss));
  EW_TRY(write_facts(writer, "/config", manifest.config));
  return write_facts(writer, "/facts", manifest.facts);
}

Result<void> write_hdf5(const Input& input, std::optional<Kind> only, const std::string& path) {
  const Manifest& manifest = input.manifest;
  EW_ASSIGN(hdf5::Writer writer, hdf5::Writer::create(path));
  std::vector<std::pair<std::int32_t, Kind>> arrays;
  std::vector<hdf5::DatasetWriter> datasets;
  for (const Kind kind : {Kind::master, Kind::exp_avg, Kind::exp_avg_sq}) {
    if (only.value_or(kind) != kind) continue;
    for (std::int32_t tensor = 0; tensor < std::ssize(manifest.tensors); ++tensor) {
      const Tensor& source = manifest.tensors[static_cast<std::size_t>(tensor)];
      EW_ASSIGN(hdf5::DatasetWriter dataset,
                writer.create_f32(fmt::format("{}/{}", group_of(kind), source.name), source.shape));
      datasets.push_back(std::move(dataset));
      arrays.emplace_back(tensor, kind);
    }
  }
  EW_TRY(write_attributes(manifest, writer));
  std::size_t next = 0;
  const Sink sink = [&](const Part& part, std::span<const float> values) -> Result<void> {
    if (arrays[next] != std::pair(part.tensor, part.kind)) ++next;
    return datasets[next].write(part.begin, values);
  };
  EW_TRY(stream(input, arrays, sink));
  return writer.close();
}

/// Checkpoints are immutable, and retention would take the export along.
Result<void> check_target(const std::string& checkpoint, const std::string& output) {
  std::error_code ignored;
  const auto inside = std::filesystem::weakly_canonical(output, ignored);
  const auto home = std::filesystem::weakly_canonical(checkpoint, ignored);
  if (std::mismatch(home.begin(), home.end(), inside.begin(), inside.end()).first != home.end())
    return {};
  return fail({.code = Code::usage,
               .what = "the export would go into the checkpoint itself",
               .where = fmt::format("--output {}", output),
               .why = "checkpoints are never changed, and deleted as a whole",
               .fix = "name a path outside of it"});
}

Result<std::string> written_line(FileSystem& files, const std::string& path) {
  EW_ASSIGN(const std::unique_ptr<FileHandle> file, files.open(path, Caching::buffered));
  EW_ASSIGN(const std::int64_t size_bytes, file->size_bytes());
  return fmt::format("wrote {}: {}", path, bytes_text(static_cast<double>(size_bytes)));
}

Result<void> replace_text(FileSystem& files, const std::string& directory, const std::string& name,
                          std::string_view text) {
  const std::string temporary = fmt::format("{}/{}.tmp", directory, name);
  EW_ASSIGN(const bool stale, exists(files, temporary));
  if (stale) EW_TRY(files.remove_file(temporary));
  EW_TRY(write_text(files, temporary, text));
  EW_TRY(files.rename(temporary, fmt::format("{}/{}", directory, name)));
  return files.sync_directory(directory);
}

}  // namespace

Result<std::vector<std::string>> export_checkpoint(FileSystem& files, const std::string& checkpoint,
                                                   const ExportOptions& options) {
  EW_TRY(check_target(checkpoint, options.output));
  EW_ASSIGN(const Manifest manifest, checkpoint::read_manifest(files, checkpoint));
  const Input input{files, checkpoint, manifest, options.batch_elems};
  if (options.format == ExportFormat::hdf5) {
    EW_TRY(write_hdf5(input, options.kind, options.output));
    EW_ASSIGN(std::string line, written_line(files, options.output));
    return std::vector{std::move(line)};
  }
  EW_ASSIGN(const std::string config, gpt2_config(manifest, checkpoint));
  EW_TRY(make_directories(files, options.output));
  const Kind kind = options.kind.value_or(Kind::master);
  if (kind != Kind::master) {  // under a name that nobody loads as a model
    const std::string moments = fmt::format("{}/{}.safetensors", options.output, name(kind));
    EW_TRY(write_safetensors(input, kind, moments));
    EW_ASSIGN(std::string line, written_line(files, moments));
    return std::vector{std::move(line)};
  }
  const std::string weights = options.output + "/model.safetensors";
  EW_TRY(write_safetensors(input, kind, weights));
  EW_TRY(replace_text(files, options.output, "config.json", config));
  EW_ASSIGN(std::string weights_line, written_line(files, weights));
  EW_ASSIGN(std::string config_line, written_line(files, options.output + "/config.json"));
  return std::vector{std::move(weights_line), std::move(config_line)};
}

}  // namespace elaswave::app
