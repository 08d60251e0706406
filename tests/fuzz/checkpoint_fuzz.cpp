// Reading a damaged checkpoint: whatever is read without an error is what was saved, and verify()
// finds every change. The first byte chooses the checkpoint (bit 0) and the damage (bit 1):
//   0: edits of 8 bytes each, u8 file | u8 way | u32 place | u8 value | u8 length
//   1: another text for the manifest, its checksum made right: then values may differ
#include "io/checkpoint/manifest.h"
#include "io/checkpoint/reader.h"
#include "io/checkpoint/store.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/manifest_seeds.h"
#include "tests/support/fake_file_system.h"
#include "tests/support/small_checkpoint.h"

using namespace elaswave;

namespace {

constexpr std::int64_t kMostElems = 1 << 20;  // of one reading; a manifest may promise far more

struct Sample {
  testing::FakeFileSystem files;
  testing::SmallState state;
  std::string path;
  std::vector<std::string> names;  // of its files
};

Sample make_sample(bool is_halved) {
  Sample sample{
      .files = {},
      .state = testing::small_state({{"wte.weight", {8, 6}}, {"h.0.mlp.weight", {4, 10}}}),
      .path = {},
      .names = {}};
  const auto manifest = testing::small_manifest(sample.state, Step{12});
  const auto saved = is_halved ? testing::save_halves(sample.files, "/run", manifest, sample.state)
                               : testing::save(sample.files, "/run", manifest, sample.state, 2);
  EW_CHECK(saved.has_value(), "cannot save: {}", saved.error().text());
  sample.path = *saved;
  for (const std::string& name : sample.files.all_files())
    if (name.starts_with(sample.path + "/")) sample.names.push_back(name);
  return sample;
}

const Sample& sample(std::size_t choice) {
  static const std::array<Sample, 2> samples = {make_sample(false), make_sample(true)};
  return samples[choice % samples.size()];
}

std::string manifest_path(const Sample& from) {
  return fmt::format("{}/{}", from.path, checkpoint::kManifestName);
}

using Numbers = std::vector<std::vector<float>>;  // kind by kind, tensor by tensor

/// Everything that the manifest promises.
Result<Numbers> read_everything(FileSystem& files, const std::string& path,
                                const checkpoint::Manifest& manifest) {
  Numbers numbers;
  for (std::size_t kind = 0; kind < checkpoint::kKindNames.size(); ++kind)
    for (const checkpoint::Tensor& tensor : manifest.tensors)
      numbers.emplace_back(static_cast<std::size_t>(tensor.elems()));
  std::vector<checkpoint::Want> wants;
  for (std::size_t i = 0; i < numbers.size(); ++i)
    wants.push_back({.tensor = static_cast<std::int32_t>(i % manifest.tensors.size()),
                     .kind = static_cast<checkpoint::Kind>(i / manifest.tensors.size()),
                     .begin = 0,
                     .out = numbers[i]});
  EW_TRY(checkpoint::read_wants(files, path, manifest, std::move(wants)));
  return numbers;
}

void check_saved(const Numbers& numbers, const testing::SmallState& state) {
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto& saved = state.values[i / state.tensors.size()][i % state.tensors.size()];
    EW_CHECK(numbers[i].size() == saved.size() &&
                 std::memcmp(numbers[i].data(), saved.data(), 4 * saved.size()) == 0,
             "numbers {} differ from those saved, and no error says so", i);
  }
}

void edit(std::string& content, fuzz::Input& edits) {
  const auto way = edits.take<std::uint8_t>();
  const std::size_t at = edits.take<std::uint32_t>() % (content.size() + 1);
  const auto value = static_cast<char>(edits.take<std::uint8_t>());
  const std::size_t length = std::min<std::size_t>(edits.take<std::uint8_t>(), content.size() - at);
  if (way % 4 == 0 && at < content.size()) content[at] = static_cast<char>(content[at] ^ value);
  if (way % 4 == 1) content.replace(at, length, length, value);
  if (way % 4 == 2) content.resize(at);
  if (way % 4 == 3) content.append(length, value);
}

void try_edits(const Sample& from, fuzz::Input edits) {
  testing::FakeFileSystem files = from.files.clone();
  while (!edits.rest().empty()) {
    const std::string& name = from.names[edits.take<std::uint8_t>() % from.names.size()];
    std::string content = files.contents(name);
    edit(content, edits);
    files.set_contents(name, content);
  }
  bool is_whole = true;
  for (const std::string& name : from.names)
    is_whole = is_whole && files.contents(name) == from.files.contents(name);
  const auto damage = checkpoint::verify(files, from.path);
  EW_CHECK(damage.empty() == is_whole, "{} findings in {} checkpoint", damage.size(),
           is_whole ? "a whole" : "a damaged");
  const auto manifest = checkpoint::read_manifest(files, from.path);
  if (!manifest) return fuzz::check_error(manifest.error());
  const auto numbers = read_everything(files, from.path, *manifest);
  if (!numbers) return fuzz::check_error(numbers.error());
  check_saved(*numbers, from.state);
}

void try_manifest(const Sample& from, std::string_view text) {
  testing::FakeFileSystem files = from.files.clone();
  files.set_contents(manifest_path(from), fuzz::with_checksum(text));
  const auto manifest = checkpoint::read_manifest(files, from.path);
  if (!manifest) {
    EW_CHECK(!checkpoint::verify(files, from.path).empty(), "damage that verify() does not see");
    return fuzz::check_error(manifest.error());
  }
  std::int64_t elems = 0;
  for (const checkpoint::Tensor& tensor : manifest->tensors)
    elems += std::min(tensor.elems(), kMostElems);
  for (const checkpoint::Damage& damage : checkpoint::verify(files, from.path))
    EW_CHECK(!damage.file.empty() && !damage.what.empty(), "a finding that says nothing");
  if (elems > kMostElems || manifest->tensors.empty()) return;
  const auto numbers = read_everything(files, from.path, *manifest);
  if (!numbers) fuzz::check_error(numbers.error());
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds = {std::string(1, '\0'), std::string(1, '\1')};
  for (std::uint8_t choice = 0; choice < 2; ++choice) {
    const Sample& from = sample(choice);
    seeds.push_back(fuzz::field(static_cast<std::uint8_t>(choice + 2))
                        .append(from.files.contents(manifest_path(from))));
    for (std::size_t file = 0; file < from.names.size(); ++file)
      for (std::uint8_t way = 0; way < 4; ++way)
        seeds.push_back(fuzz::field(choice)
                            .append(fuzz::field(static_cast<std::uint8_t>(file)))
                            .append(fuzz::field(way))
                            .append(fuzz::field(std::uint32_t{4100}))
                            .append("\1\4"));
  }
  return seeds;
}

std::vector<std::string> fuzz_dictionary() {
  return fuzz::manifest_words();
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const auto choice = input.take<std::uint8_t>();
  const Sample& from = sample(choice & 1);
  if ((choice & 2) == 0)
    try_edits(from, input);
  else
    try_manifest(from, input.rest());
  return 0;
}
