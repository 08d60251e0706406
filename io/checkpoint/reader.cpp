#include "io/checkpoint/reader.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "io/base/crc32c.h"
#include "io/checkpoint/read_ahead.h"
#include "io/checkpoint/store.h"

namespace elaswave::checkpoint {
namespace {

constexpr std::int64_t kElemBytes = 4;
// Unwanted bytes up to this length are read over rather than sought across.
constexpr std::int64_t kReadOverBytes = std::int64_t{256} << 10;

tl::unexpected<Error> damaged(const std::string& checkpoint, const std::string& file,
                              std::string why) {
  return fail({.code = Code::corrupt,
               .what = "a checkpoint is damaged",
               .where = checkpoint + "/" + file,
               .why = std::move(why),
               .fix = "use another checkpoint"});
}

/// A file that is gone or too short is damage of the checkpoint; anything else is the system's.
Error as_damage(Error error, const std::string& checkpoint, const std::string& file) {
  if (error.code != Code::data) return error;
  return damaged(checkpoint, file, error.what + ": " + error.why).value();
}

/// A unit that holds wanted elements.
struct NeededUnit {
  std::size_t file = 0, piece = 0;
  std::int64_t unit = 0;
  std::int64_t begin = 0, end = 0;  // bytes of the file
  // Where all of it goes, when that is one place; null: in parts, or not all is wanted.
  std::byte* into = nullptr;
};

/// Elements of a piece that lie side by side both in the tensor and in the file.
struct StoredRange {
  std::int64_t begin = 0;  // in the tensor
  std::int64_t elems = 0;
  std::int64_t stored = 0;  // in the piece
};

/// Calls `visit` with the parts of the piece's ranges within stored elements [first, last).
template <typename Visit>
void visit_ranges(const Piece& piece, std::int64_t first, std::int64_t last, Visit visit) {
  std::int64_t stored = 0;
  for (const ElementRun& run : piece.runs) {
    const std::int64_t run_elems = run.elems * run.count;
    if (stored + run_elems > first && stored < last) {
      std::int64_t k = std::max<std::int64_t>((first - stored) / run.elems, 0);
      for (; k < run.count && stored + k * run.elems < last; ++k) {
        const std::int64_t range_stored = stored + k * run.elems;
        const std::int64_t from = std::max(first, range_stored);
        const std::int64_t to = std::min(last, range_stored + run.elems);
        if (from < to)
          visit(StoredRange{run.begin + k * run.stride + (from - range_stored), to - from, from});
      }
    }
    stored += run_elems;
    if (stored >= last) return;
  }
}

/// The wants by place, so that those of a range are found.
class WantMap {
 public:
  explicit WantMap(std::vector<Want> wants) : wants_(std::move(wants)) {
    std::sort(wants_.begin(), wants_.end(), before);
    for (std::size_t i = 1; i < wants_.size(); ++i)
      EW_CHECK(before(wants_[i - 1], wants_[i]) && (!same_tensor(wants_[i - 1], wants_[i]) ||
                                                    end_of(wants_[i - 1]) <= wants_[i].begin),
               "wants overlap in tensor {}", wants_[i].tensor);
  }

  std::int64_t total_elems() const {
    std::int64_t total = 0;
    for (const Want& want : wants_) total += std::ssize(want.out);
    return total;
  }

  /// Calls visit(want, from, to) for the wanted parts of elements [begin, end).
  template <typename Visit>
  void visit(const Piece& piece, std::int64_t begin, std::int64_t end, Visit visit) const {
    const Want key{piece.tensor, piece.kind, begin, {}};
    auto want = std::upper_bound(wants_.begin(), wants_.end(), key, before);
    if (want != wants_.begin()) --want;  // it may reach into the range
    for (; want != wants_.end() && !before(Want{piece.tensor, piece.kind, end - 1, {}}, *want);
         ++want) {
      if (!same_tensor(*want, key)) continue;
      const std::int64_t from = std::max(begin, want->begin);
      const std::int64_t to = std::min(end, end_of(*want));
      if (from < to) visit(*want, from, to);
    }
  }

 private:
  static bool same_tensor(const Want& a, const Want& b) {
    return a.tensor == b.tensor && a.kind == b.kind;
  }
  static bool before(const Want& a, const Want& b) {
    return std::tuple(a.tensor, a.kind, a.begin) < std::tuple(b.tensor, b.kind, b.begin);
  }
  static std::int64_t end_of(const Want& want) { return want.begin + std::ssize(want.out); }

  std::vector<Want> wants_;
};

/// True when memory and file have the same place within an aligned block: only then can a direct
/// transfer go to its place.
bool lies_alike(const std::byte* memory, std::int64_t offset_bytes) {
  return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(memory) % kDirectAlignment) ==
         offset_bytes % kDirectAlignment;
}

std::vector<NeededUnit> needed_units(const Manifest& manifest, const WantMap& wants) {
  std::vector<NeededUnit> units;
  for (std::size_t f = 0; f < manifest.files.size(); ++f)
    for (std::size_t p = 0; p < manifest.files[f].pieces.size(); ++p) {
      const Piece& piece = manifest.files[f].pieces[p];
      const std::int64_t elems = piece.elems();
      for (std::int64_t unit = 0; unit < std::ssize(piece.unit_crcs); ++unit) {
        const std::int64_t first = unit * kUnitElems;
        const std::int64_t last = std::min(first + kUnitElems, elems);
        std::int64_t wanted = 0;
        float* place = nullptr;
        bool one_place = true;
        visit_ranges(piece, first, last, [&](const StoredRange& range) {
          wants.visit(piece, range.begin, range.begin + range.elems,
                      [&](const Want& want, std::int64_t from, std::int64_t to) {
                        float* const out = want.out.data() + (from - want.begin);
                        if (place == nullptr) place = out;
                        one_place = one_place && out == place + wanted;
                        wanted += to - from;
                      });
        });
        if (wanted == 0) continue;
        NeededUnit needed{f, p, unit, piece.offset_bytes + first * kElemBytes,
                          piece.offset_bytes + last * kElemBytes};
        auto* const into = reinterpret_cast<std::byte*>(place);
        if (one_place && wanted == last - first && lies_alike(into, needed.begin))
          needed.into = into;
        units.push_back(needed);
      }
    }
  return units;
}

/// True when a unit can be read together with those before it: on the way to memory of the reader's
/// own, or because it belongs right behind them in the caller's too.
bool joins(const Stretch& stretch, const NeededUnit& unit) {
  if (stretch.file != unit.file || unit.end - stretch.begin > stretch.most_bytes()) return false;
  if (stretch.into != nullptr)
    return unit.begin == stretch.end && unit.into == stretch.into + (stretch.end - stretch.begin);
  return unit.into == nullptr && unit.begin - stretch.end <= kReadOverBytes;
}

/// Units close to each other are read at once. `first_unit[i]` is the first unit of stretch i.
std::vector<Stretch> stretches_of(const std::vector<NeededUnit>& units,
                                  std::vector<std::size_t>& first_unit) {
  std::vector<Stretch> stretches;
  for (std::size_t i = 0; i < units.size(); ++i) {
    const NeededUnit& unit = units[i];
    if (stretches.empty() || !joins(stretches.back(), unit)) {
      stretches.push_back({unit.file, unit.begin, unit.end, unit.into});
      first_unit.push_back(i);
    }
    stretches.back().end = unit.end;
  }
  first_unit.push_back(units.size());
  return stretches;
}

Result<std::int64_t> file_size(FileSystem& files, const std::string& path) {
  EW_ASSIGN(const std::unique_ptr<FileHandle> file, files.open(path, Caching::buffered));
  return file->size_bytes();
}

std::vector<std::string> paths_of(const std::string& checkpoint, const Manifest& manifest) {
  std::vector<std::string> paths;
  for (const FileEntry& file : manifest.files) paths.push_back(checkpoint + "/" + file.name);
  return paths;
}

/// Copies the wanted elements of a checked unit; returns how many.
std::int64_t scatter(const Piece& piece, const NeededUnit& unit, std::span<const std::byte> bytes,
                     const WantMap& wants) {
  const std::int64_t first = unit.unit * kUnitElems;
  std::int64_t copied = 0;
  visit_ranges(piece, first, first + (unit.end - unit.begin) / kElemBytes,
               [&](const StoredRange& range) {
                 wants.visit(piece, range.begin, range.begin + range.elems,
                             [&](const Want& want, std::int64_t from, std::int64_t to) {
                               const std::int64_t stored = range.stored + (from - range.begin);
                               std::memcpy(want.out.data() + (from - want.begin),
                                           bytes.data() + (stored - first) * kElemBytes,
                                           static_cast<std::size_t>((to - from) * kElemBytes));
                               copied += to - from;
                             });
               });
  return copied;
}

}  // namespace

Result<void> read_wants(FileSystem& files, const std::string& checkpoint, const Manifest& manifest,
                        std::vector<Want> wanted) {
  const WantMap wants(std::move(wanted));
  const std::vector<NeededUnit> units = needed_units(manifest, wants);
  std::vector<std::size_t> first_unit;
  std::vector<Stretch> stretches = stretches_of(units, first_unit);
  ReadAhead reader(files, paths_of(checkpoint, manifest), stretches);
  std::int64_t copied = 0;
  for (std::size_t i = 0; i < stretches.size(); ++i) {
    const FileEntry& file = manifest.files[stretches[i].file];
    const auto got = reader.next();
    if (!got) return fail(as_damage(got.error(), checkpoint, file.name));
    for (std::size_t u = first_unit[i]; u < first_unit[i + 1]; ++u) {
      const NeededUnit& unit = units[u];
      const Piece& piece = file.pieces[unit.piece];
      const auto bytes = got->subspan(static_cast<std::size_t>(unit.begin - stretches[i].begin),
                                      static_cast<std::size_t>(unit.end - unit.begin));
      if (crc32c(bytes) != piece.unit_crcs[static_cast<std::size_t>(unit.unit)])
        return damaged(checkpoint, file.name,
                       fmt::format("bytes {} to {} do not match their checksum ({} of {})",
                                   unit.begin, unit.end - 1, name(piece.kind),
                                   manifest.tensors[static_cast<std::size_t>(piece.tensor)].name));
      copied += unit.into != nullptr ? (unit.end - unit.begin) / kElemBytes
                                     : scatter(piece, unit, bytes, wants);
    }
  }
  // check_manifest() saw to it that every element is somewhere.
  EW_CHECK(copied == wants.total_elems(), "{} of {} wanted elements read", copied,
           wants.total_elems());
  return {};
}

Result<void> verify_frame(FileSystem& files, const std::string& checkpoint,
                          const FileEntry& entry) {
  auto file = files.open(checkpoint + "/" + entry.name, Caching::buffered);
  if (!file) return fail(as_damage(std::move(file).error(), checkpoint, entry.name));
  std::uint32_t crc = 0;
  std::int64_t at = 0;
  std::vector<std::byte> bytes;
  const auto skip_to = [&](std::int64_t end) -> Result<void> {
    while (at < end) {
      bytes.resize(static_cast<std::size_t>(std::min(end - at, kFileBlockBytes)));
      auto read = (*file)->read_at(at, bytes);
      if (!read) return fail(as_damage(std::move(read).error(), checkpoint, entry.name));
      crc = crc32c(bytes, crc);
      at += std::ssize(bytes);
    }
    return {};
  };
  for (const Piece& piece : entry.pieces) {
    EW_TRY(skip_to(piece.offset_bytes));
    at = piece.offset_bytes + piece.elems() * kElemBytes;
  }
  EW_TRY(skip_to(entry.size_bytes));
  if (crc == entry.frame_crc) return {};
  return damaged(checkpoint, entry.name,
                 "bytes outside of the tensors do not match their checksum");
}

std::vector<Damage> verify_file(FileSystem& files, const std::string& checkpoint,
                                const FileEntry& entry) {
  const auto size = file_size(files, checkpoint + "/" + entry.name);
  if (!size) return {{entry.name, size.error().what + ": " + size.error().why}};
  if (*size != entry.size_bytes)
    return {{entry.name, fmt::format("it has {} bytes, {} were written", *size, entry.size_bytes)}};
  std::vector<Stretch> stretches;
  for (std::int64_t at = 0; at < entry.size_bytes; at += kFileBlockBytes)
    stretches.push_back({0, at, std::min(at + kFileBlockBytes, entry.size_bytes)});
  ReadAhead reader(files, {checkpoint + "/" + entry.name}, stretches);
  std::vector<Damage> damages;
  for (std::size_t block = 0; block < stretches.size(); ++block) {
    const auto bytes = reader.next();
    if (!bytes) {
      damages.push_back({entry.name, bytes.error().what + ": " + bytes.error().why});
      return damages;
    }
    if (crc32c(*bytes) != entry.block_crcs[block])
      damages.push_back(
          {entry.name, fmt::format("bytes {} to {} do not match their checksum",
                                   stretches[block].begin, stretches[block].end - 1)});
  }
  return damages;
}

std::vector<Damage> verify(FileSystem& files, const std::string& checkpoint) {
  const auto manifest = read_manifest_alone(files, checkpoint);
  if (!manifest)
    return {{manifest.error().where, manifest.error().what + ": " + manifest.error().why}};
  std::vector<Damage> damages;
  for (const FileEntry& entry : manifest->files) {
    std::vector<Damage> more = verify_file(files, checkpoint, entry);
    damages.insert(damages.end(), more.begin(), more.end());
  }
  return damages;
}

}  // namespace elaswave::checkpoint
