#include "io/checkpoint/safetensors.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "io/base/log.h"

namespace elaswave::checkpoint {
namespace {

using Json = nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie");

constexpr std::int64_t kElemBytes = 4;
constexpr std::int64_t kLengthBytes = 8;
constexpr std::int64_t kHeaderAlignment = 8;
constexpr std::string_view kMetadataKey = "__metadata__";

tl::unexpected<Error> unfit(const std::string& where, std::string why) {
  return fail({.code = Code::data,
               .what = "these tensors cannot be one safetensors file",
               .where = where,
               .why = std::move(why),
               .fix = "export another checkpoint, or as hdf5"});
}

bool by_name(const Tensor& a, const Tensor& b) {
  return a.name < b.name;
}

Json metadata_json(const Facts& metadata) {
  Json json = {{"format", "pt"}};
  for (const auto& [key, value] : metadata) json[key] = value;
  return json;
}

}  // namespace

Result<std::string> safetensors_header(const std::vector<Tensor>& tensors, const Facts& metadata,
                                       const std::string& where) {
  EW_CHECK(std::is_sorted(tensors.begin(), tensors.end(), by_name), "tensors in another order");
  Json json;
  json[std::string(kMetadataKey)] = metadata_json(metadata);
  std::int64_t end_bytes = 0;
  for (const Tensor& tensor : tensors) {
    if (json.contains(tensor.name))
      return unfit(where, fmt::format("the name '{}' is taken", tensor.name));
    std::int64_t elems = 1;
    for (const std::int64_t dim : tensor.shape) {
      if (dim < 0 || (dim > 0 && elems > std::numeric_limits<std::int64_t>::max() / 8 / dim))
        return unfit(where, fmt::format("'{}' has a dim of {}", tensor.name, dim));
      elems *= dim;
    }
    const std::int64_t begin_bytes = end_bytes;
    if (elems > (std::numeric_limits<std::int64_t>::max() / 2 - begin_bytes) / kElemBytes)
      return unfit(where, "the tensors take more than 2^62 bytes");
    end_bytes += kElemBytes * elems;
    json[tensor.name] = {
        {"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin_bytes, end_bytes}}};
  }
  std::string text = json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
  text.resize(static_cast<std::size_t>(round_up(std::ssize(text), kHeaderAlignment)), ' ');
  if (std::ssize(text) > kSafetensorsHeaderLimitBytes)
    return unfit(where, fmt::format("its header would take {} bytes, readers accept {}",
                                    text.size(), kSafetensorsHeaderLimitBytes));
  std::string header(kLengthBytes, '\0');
  for (std::size_t i = 0; i < header.size(); ++i)
    header[i] = static_cast<char>(text.size() >> (8 * i) & 0xFF);
  return header + text;
}

Result<SafetensorsWriter> SafetensorsWriter::create(FileSystem& files, const std::string& path,
                                                    std::vector<Tensor> tensors,
                                                    const Facts& metadata) {
  std::sort(tensors.begin(), tensors.end(), by_name);
  EW_ASSIGN(const std::string header, safetensors_header(tensors, metadata, path));
  SafetensorsWriter writer(files, path, std::move(tensors));
  EW_ASSIGN(const bool stale, exists(files, writer.temporary_path()));
  if (stale) EW_TRY(files.remove_file(writer.temporary_path()));
  EW_ASSIGN(writer.file_, files.create(writer.temporary_path(), Caching::buffered));
  std::int64_t data_bytes = 0;
  for (const Tensor& tensor : writer.tensors_) data_bytes += kElemBytes * tensor.elems();
  EW_TRY(writer.file_->reserve(std::ssize(header) + data_bytes));
  EW_TRY(writer.file_->write_at(0, std::as_bytes(std::span(header))));
  writer.offset_bytes_ = std::ssize(header);
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (!file_) return;
  file_.reset();
  const Result<void> removed = files_->remove_file(temporary_path());
  if (!removed) log_warn("{} stays behind: {}", temporary_path(), removed.error().why);
}

Result<void> SafetensorsWriter::write(std::int64_t tensor, std::span<const float> values) {
  EW_CHECK(tensor >= tensor_ && tensor < std::ssize(tensors_), "tensor {} of {} after {}", tensor,
           tensors_.size(), tensor_);
  for (; tensor_ < tensor; ++tensor_) {
    const Tensor& before = tensors_[static_cast<std::size_t>(tensor_)];
    EW_CHECK(tensor_elems_ == before.elems(), "{} of {} elements of {}", tensor_elems_,
             before.elems(), before.name);
    tensor_elems_ = 0;
  }
  const Tensor& current = tensors_[static_cast<std::size_t>(tensor)];
  EW_CHECK(std::ssize(values) <= current.elems() - tensor_elems_, "{} + {} of {} elements of {}",
           tensor_elems_, values.size(), current.elems(), current.name);
  EW_TRY(file_->write_at(offset_bytes_, std::as_bytes(values)));
  tensor_elems_ += std::ssize(values);
  offset_bytes_ += std::ssize(std::as_bytes(values));
  return {};
}

Result<void> SafetensorsWriter::close() {
  EW_CHECK(file_ != nullptr, "closed twice: {}", path_);
  if (!tensors_.empty()) {
    EW_TRY(write(std::ssize(tensors_) - 1, {}));
    EW_CHECK(tensor_elems_ == tensors_.back().elems(), "{} of {} elements of {}", tensor_elems_,
             tensors_.back().elems(), tensors_.back().name);
  }
  EW_TRY(file_->sync());
  EW_TRY(files_->rename(temporary_path(), path_));
  file_.reset();
  const std::string directory = std::filesystem::path(path_).parent_path().string();
  return files_->sync_directory(directory.empty() ? "." : directory);
}

// The process id keeps two writers of one file apart: the later rename wins, and wins whole.
std::string SafetensorsWriter::temporary_path() const {
  return fmt::format("{}.tmp-{}", path_, ::getpid());
}

}  // namespace elaswave::checkpoint
