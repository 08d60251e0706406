// The checks that make a manifest trustworthy: its parts fit together.
#include <algorithm>
#include <limits>
#include <set>

#include "io/checkpoint/manifest.h"

namespace elaswave::checkpoint {
namespace {

// No real tensor has more; keeps a hostile manifest from taking the memory.
constexpr std::int64_t kMostElems = std::int64_t{1} << 48;
constexpr std::int64_t kMostRanges = std::int64_t{1} << 22;  // of one tensor and kind
constexpr std::int64_t kElemBytes = 4;

struct Range {
  std::int64_t begin = 0, elems = 0;
};

/// The first thing found wrong, or empty.
using Fault = std::string;

Fault tensor_fault(const Tensor& tensor) {
  if (tensor.name.empty() || tensor.shape.empty()) return "a tensor without a name or shape";
  std::int64_t elems = 1;
  for (const std::int64_t dim : tensor.shape) {
    if (dim < 1 || dim > kMostElems / elems)
      return fmt::format("tensor {} has a dim of {}", tensor.name, dim);
    elems *= dim;
  }
  return {};
}

/// Runs lie in the tensor, and their sum stays countable.
Fault run_fault(const ElementRun& run, std::int64_t tensor_elems) {
  const bool sane = run.begin >= 0 && run.elems >= 1 && run.count >= 1 && run.stride >= run.elems &&
                    run.elems <= tensor_elems && run.begin <= tensor_elems - run.elems;
  // The last range begins at begin + (count - 1) * stride.
  const bool inside =
      sane &&
      (run.count == 1 || run.count - 1 <= (tensor_elems - run.elems - run.begin) / run.stride);
  if (inside) return {};
  return fmt::format("a run of {} + {} by {} times {} leaves its tensor", run.begin, run.elems,
                     run.stride, run.count);
}

Fault piece_fault(const Piece& piece, const FileEntry& file, const Manifest& manifest) {
  if (piece.tensor < 0 || piece.tensor >= std::ssize(manifest.tensors) || piece.kind >= Kind::count)
    return "a piece of an unknown tensor or kind";
  const std::int64_t tensor_elems =
      manifest.tensors[static_cast<std::size_t>(piece.tensor)].elems();
  std::int64_t elems = 0;
  for (const ElementRun& run : piece.runs) {
    if (Fault fault = run_fault(run, tensor_elems); !fault.empty()) return fault;
    elems += run.elems * run.count;
    if (elems > tensor_elems) return "a piece larger than its tensor";
  }
  if (elems == 0) return "an empty piece";
  if (std::ssize(piece.unit_crcs) != ceil_div(elems, kUnitElems))
    return "a piece with too few or too many checksums";
  if (piece.offset_bytes < 0 || piece.offset_bytes % kElemBytes != 0 ||
      piece.offset_bytes > file.size_bytes ||
      elems > (file.size_bytes - piece.offset_bytes) / kElemBytes)
    return "a piece outside of its file";
  return {};
}

/// Names must stay inside the checkpoint's directory: shards/<word> or <word>.
bool good_file_name(std::string_view name) {
  constexpr std::string_view kFolder = "shards/";
  if (name.starts_with(kFolder)) name.remove_prefix(kFolder.size());
  return !name.empty() && name.front() != '.' && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  });
}

Fault file_fault(const FileEntry& file, const Manifest& manifest) {
  if (!good_file_name(file.name)) return fmt::format("a file named '{}'", file.name);
  if (file.size_bytes < 1 || file.size_bytes > kMostElems)
    return fmt::format("{} has {} bytes", file.name, file.size_bytes);
  if (std::ssize(file.block_crcs) != ceil_div(file.size_bytes, kFileBlockBytes))
    return fmt::format("{} has too few or too many checksums", file.name);
  std::int64_t end = 0;
  for (const Piece& piece : file.pieces) {
    if (Fault fault = piece_fault(piece, file, manifest); !fault.empty())
      return fmt::format("{}: {}", file.name, fault);
    if (piece.offset_bytes < end) return fmt::format("{}: pieces overlap", file.name);
    end = piece.offset_bytes + piece.elems() * kElemBytes;
  }
  return {};
}

/// Every element of the tensor exactly once.
Fault cover_fault(std::vector<Range>& ranges, std::int64_t tensor_elems) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  std::int64_t end = 0;
  for (const Range& range : ranges) {
    if (range.begin != end)
      return range.begin > end ? fmt::format("elements {} to {} are missing", end, range.begin - 1)
                               : fmt::format("element {} is there twice", range.begin);
    end += range.elems;
  }
  return end == tensor_elems ? Fault{} : fmt::format("elements from {} on are missing", end);
}

/// REQUIRES: every piece passed piece_fault().
Fault all_cover_fault(const Manifest& manifest) {
  constexpr auto kKinds = static_cast<std::size_t>(Kind::count);
  std::vector<std::vector<const Piece*>> pieces(manifest.tensors.size() * kKinds);
  for (const FileEntry& file : manifest.files)
    for (const Piece& piece : file.pieces)
      pieces[static_cast<std::size_t>(piece.tensor) * kKinds + static_cast<std::size_t>(piece.kind)]
          .push_back(&piece);
  std::vector<Range> ranges;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const Tensor& tensor = manifest.tensors[i / kKinds];
    ranges.clear();
    for (const Piece* piece : pieces[i])
      for (const ElementRun& run : piece->runs) {
        if (run.count > kMostRanges - std::ssize(ranges)) return "too many ranges";
        for (std::int64_t k = 0; k < run.count; ++k)
          ranges.push_back({run.begin + k * run.stride, run.elems});
      }
    if (Fault fault = cover_fault(ranges, tensor.elems()); !fault.empty())
      return fmt::format("{} of {}: {}", kKindNames[i % kKinds], tensor.name, fault);
  }
  return {};
}

Fault manifest_fault(const Manifest& manifest) {
  if (raw(manifest.step) < 0 || manifest.updates < 0 || manifest.samples < 0 || manifest.tokens < 0)
    return "a negative counter";
  std::set<std::string_view> names;
  for (const Tensor& tensor : manifest.tensors) {
    if (Fault fault = tensor_fault(tensor); !fault.empty()) return fault;
    if (!names.insert(tensor.name).second) return fmt::format("tensor {} twice", tensor.name);
  }
  names.clear();
  for (const FileEntry& file : manifest.files) {
    if (Fault fault = file_fault(file, manifest); !fault.empty()) return fault;
    if (!names.insert(file.name).second) return fmt::format("file {} twice", file.name);
  }
  return all_cover_fault(manifest);
}

}  // namespace

Result<void> check_manifest(const Manifest& manifest, const std::string& where) {
  const Fault fault = manifest_fault(manifest);
  if (fault.empty()) return {};
  return fail({.code = Code::corrupt,
               .what = "a checkpoint's manifest does not add up",
               .where = where,
               .why = fault,
               .fix = "use another checkpoint"});
}

}  // namespace elaswave::checkpoint
