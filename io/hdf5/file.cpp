#include "io/hdf5/file.h"

#include <hdf5.h>

#include <type_traits>
#include <utility>

#include "io/base/log.h"
#include "io/hdf5/handles.h"

namespace elaswave::hdf5 {
namespace {

Result<Attribute> open_attribute(Id file, const std::string& path, const std::string& object,
                                 const std::string& name, H5T_class_t expected) {
  const std::string where = at(path, object) + "@" + name;
  EW_ASSIGN(Attribute attribute,
            owned<Attribute>(
                H5Aopen_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
                "cannot open an HDF5 attribute", where, Code::data));
  EW_ASSIGN(const Type type, owned<Type>(H5Aget_type(attribute.get()), "cannot read an HDF5 type",
                                         where, Code::data));
  EW_ASSIGN(const Space space, owned<Space>(H5Aget_space(attribute.get()),
                                            "cannot read an HDF5 space", where, Code::data));
  if (H5Tget_class(type.get()) != expected || H5Sget_simple_extent_npoints(space.get()) != 1)
    return fail({Code::data, "an HDF5 attribute is not of the expected kind", where,
                 "another type, or not one value", "check that this is the file you mean"});
  return attribute;
}

template <typename T>
Result<T> read_number(Id file, const std::string& path, const std::string& object,
                      const std::string& name, Id memory_type) {
  const QuietErrors quiet;
  const H5T_class_t expected = std::is_integral_v<T> ? H5T_INTEGER : H5T_FLOAT;
  EW_ASSIGN(const Attribute attribute, open_attribute(file, path, object, name, expected));
  T value{};
  if (H5Aread(attribute.get(), memory_type, &value) < 0)
    return fail(
        hdf5_error("cannot read an HDF5 attribute", at(path, object) + "@" + name, Code::data));
  return value;
}

}  // namespace

std::string library_version() {
  unsigned major = 0, minor = 0, release = 0;
  if (H5get_libversion(&major, &minor, &release) < 0) return "unknown";
  return fmt::format("{}.{}.{}", major, minor, release);
}

void FileTraits::release(handle_type id) {
  if (H5Fclose(id) < 0) log_warn("closing an HDF5 file failed");
}

struct Writer::State {
  ReplacementFile
      replacement;  // the same temporary file that HDF5 writes, through our own descriptor
  Unique<FileTraits> file;
};

namespace {

// On a full disk HDF5's own close fails and the process later crashes on exit (measured with
// 1.10.8). So space is reserved before HDF5 plans with it: for a dataset and this much for
// metadata.
constexpr std::int64_t kMetadataReserveBytes = std::int64_t{1} << 20;

Result<Properties> file_access(const std::string& where) {
  EW_ASSIGN(Properties access,
            owned<Properties>(H5Pcreate(H5P_FILE_ACCESS), "cannot make HDF5 properties", where));
  // The v110 format has checksummed metadata and a consistency flag: a torn file refuses to open
  // instead of showing holes. No file locks: the name is private to us, and network file systems
  // lack them.
  if (H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110) < 0 ||
      H5Pset_file_locking(access.get(), 0, 1) < 0 || H5Pset_alignment(access.get(), 4096, 4096) < 0)
    return fail(hdf5_error("cannot set HDF5 properties", where));
  return access;
}

}  // namespace

/// Room for data_bytes and the metadata around them, before HDF5 plans with it.
Result<void> Writer::reserve_behind_end(State& state, std::int64_t data_bytes) {
  hsize_t end_bytes = 0;
  if (H5Fget_filesize(state.file.get(), &end_bytes) < 0)
    return fail(hdf5_error("cannot measure an HDF5 file", state.replacement.final_path()));
  return state.replacement.file().reserve(static_cast<std::int64_t>(end_bytes),
                                          data_bytes + kMetadataReserveBytes);
}

Writer::Writer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Writer::Writer(Writer&&) noexcept = default;
Writer& Writer::operator=(Writer&&) noexcept = default;
Writer::~Writer() {
  if (!state_) return;
  const QuietErrors quiet;
  state_.reset();
}

Result<Writer> Writer::create(const std::string& path) {
  const QuietErrors quiet;
  EW_ASSIGN(ReplacementFile replacement, ReplacementFile::create(path));
  EW_TRY(replacement.file().reserve(0, kMetadataReserveBytes));
  EW_ASSIGN(const Properties access, file_access(path));
  EW_ASSIGN(Unique<FileTraits> file,
            owned<Unique<FileTraits>>(H5Fcreate(replacement.file().path().c_str(), H5F_ACC_TRUNC,
                                                H5P_DEFAULT, access.get()),
                                      "cannot create an HDF5 file", path));
  // H5Fcreate truncated the file; reserve again, now that only our own writes can change its size.
  EW_TRY(replacement.file().reserve(0, kMetadataReserveBytes));
  return Writer(std::make_unique<State>(State{std::move(replacement), std::move(file)}));
}

Result<void> Writer::create_group(const std::string& name) {
  const QuietErrors quiet;
  const std::string where = at(state_->replacement.final_path(), name);
  if (name == "/" || H5Oexists_by_name(state_->file.get(), name.c_str(), H5P_DEFAULT) > 0) {
    EW_ASSIGN(const Group present,
              owned<Group>(H5Gopen2(state_->file.get(), name.c_str(), H5P_DEFAULT),
                           "cannot create an HDF5 group", where));
    return {};
  }
  H5Eclear2(H5E_DEFAULT);
  EW_ASSIGN(const Properties links, parents_too(where));
  EW_ASSIGN(const Group group, owned<Group>(H5Gcreate2(state_->file.get(), name.c_str(),
                                                       links.get(), H5P_DEFAULT, H5P_DEFAULT),
                                            "cannot create an HDF5 group", where));
  return {};
}

Result<DatasetWriter> Writer::create_f32(const std::string& name,
                                         std::span<const std::int64_t> dims) {
  const QuietErrors quiet;
  const std::string where = at(state_->replacement.final_path(), name);
  DatasetWriter writer;
  writer.file_ = &state_->replacement.file();
  writer.dims_.assign(dims.begin(), dims.end());
  writer.elems_ = checked_elems(dims, name);
  EW_ASSIGN(const Space space, space_of(dims, where));
  EW_TRY(reserve_behind_end(*state_, 4 * writer.elems_));
  EW_ASSIGN(const Properties links, parents_too(where));
  EW_ASSIGN(const Properties creation, contiguous_early(where));
  EW_ASSIGN(const Dataset dataset,
            owned<Dataset>(H5Dcreate2(state_->file.get(), name.c_str(), H5T_IEEE_F32LE, space.get(),
                                      links.get(), creation.get(), H5P_DEFAULT),
                           "cannot create an HDF5 dataset", where));
  EW_ASSIGN(writer.offset_bytes_, data_offset(dataset, where));
  return writer;
}

Result<void> DatasetWriter::write(std::int64_t first_elem, std::span<const float> values) {
  EW_CHECK(first_elem >= 0 && first_elem <= elems_ && std::ssize(values) <= elems_ - first_elem,
           "elements {} + {} of {}", first_elem, values.size(), elems_);
  return file_->write_at(offset_bytes_ + 4 * first_elem, std::as_bytes(values));
}

Result<void> Writer::write_f32(const std::string& name, std::span<const std::int64_t> dims,
                               std::span<const float> values) {
  EW_ASSIGN(DatasetWriter writer, create_f32(name, dims));
  EW_CHECK(std::ssize(values) == writer.elems(), "{} values for {} elements of {}", values.size(),
           writer.elems(), name);
  return writer.write(0, values);
}

Result<void> Writer::set_text(const std::string& object, const std::string& name,
                              std::string_view text) {
  return set_attribute({state_->file.get(), state_->replacement.final_path(), object, name}, text);
}

Result<void> Writer::set_i64(const std::string& object, const std::string& name,
                             std::int64_t value) {
  return set_attribute({state_->file.get(), state_->replacement.final_path(), object, name}, value);
}

Result<void> Writer::set_u64(const std::string& object, const std::string& name,
                             std::uint64_t value) {
  return set_attribute({state_->file.get(), state_->replacement.final_path(), object, name}, value);
}

Result<void> Writer::set_f64(const std::string& object, const std::string& name, double value) {
  return set_attribute({state_->file.get(), state_->replacement.final_path(), object, name}, value);
}

Result<void> Writer::close() {
  const QuietErrors quiet;
  const std::unique_ptr<State> state = std::move(state_);
  const std::string where = state->replacement.final_path();
  if (H5Fflush(state->file.get(), H5F_SCOPE_GLOBAL) < 0)
    return fail(hdf5_error("cannot write an HDF5 file", where));
  hsize_t size_bytes = 0;
  if (H5Fget_filesize(state->file.get(), &size_bytes) < 0)
    return fail(hdf5_error("cannot measure an HDF5 file", where));
  if (H5Fclose(state->file.release()) < 0)
    return fail(hdf5_error("cannot close an HDF5 file", where));
  // Gives back what was reserved and not used.
  EW_TRY(state->replacement.file().resize(static_cast<std::int64_t>(size_bytes)));
  return state->replacement.publish();
}

Result<Reader> Reader::open(const std::string& path) {
  const QuietErrors quiet;
  EW_ASSIGN(const elaswave::File exists,
            elaswave::File::open(path));  // a better message than HDF5's
  EW_ASSIGN(Unique<FileTraits> file,
            owned<Unique<FileTraits>>(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT),
                                      "cannot read an HDF5 file", path, Code::data));
  return Reader(std::move(file), path);
}

Result<std::vector<std::int64_t>> Reader::dims(const std::string& dataset) const {
  const QuietErrors quiet;
  const std::string where = at(path_, dataset);
  EW_ASSIGN(const Dataset opened,
            owned<Dataset>(H5Dopen2(file_.get(), dataset.c_str(), H5P_DEFAULT),
                           "cannot open an HDF5 dataset", where, Code::data));
  EW_ASSIGN(const Space space, owned<Space>(H5Dget_space(opened.get()), "cannot read an HDF5 space",
                                            where, Code::data));
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank < 0) return fail(hdf5_error("cannot read an HDF5 space", where, Code::data));
  std::vector<hsize_t> extent(static_cast<std::size_t>(rank));
  if (H5Sget_simple_extent_dims(space.get(), extent.data(), nullptr) < 0)
    return fail(hdf5_error("cannot read an HDF5 space", where, Code::data));
  return std::vector<std::int64_t>(extent.begin(), extent.end());
}

Result<std::vector<float>> Reader::read_f32(const std::string& dataset) const {
  const QuietErrors quiet;
  const std::string where = at(path_, dataset);
  EW_ASSIGN(const std::vector<std::int64_t> extent, dims(dataset));
  std::int64_t elems = 1;
  for (const std::int64_t dim : extent) elems *= dim;
  EW_ASSIGN(const Dataset opened,
            owned<Dataset>(H5Dopen2(file_.get(), dataset.c_str(), H5P_DEFAULT),
                           "cannot open an HDF5 dataset", where, Code::data));
  std::vector<float> values(static_cast<std::size_t>(elems));
  if (H5Dread(opened.get(), H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0)
    return fail(hdf5_error("cannot read an HDF5 dataset", where, Code::data));
  return values;
}

Result<std::string> Reader::text(const std::string& object, const std::string& name) const {
  const QuietErrors quiet;
  const std::string where = at(path_, object) + "@" + name;
  EW_ASSIGN(const Attribute attribute,
            open_attribute(file_.get(), path_, object, name, H5T_STRING));
  EW_ASSIGN(const Type type, utf8_text_type(where));
  char* value = nullptr;
  if (H5Aread(attribute.get(), type.get(), &value) < 0)
    return fail(hdf5_error("cannot read an HDF5 attribute", where, Code::data));
  std::string text(value == nullptr ? "" : value);
  H5free_memory(value);
  return text;
}

Result<std::int64_t> Reader::i64(const std::string& object, const std::string& name) const {
  return read_number<std::int64_t>(file_.get(), path_, object, name, H5T_NATIVE_INT64);
}

Result<std::uint64_t> Reader::u64(const std::string& object, const std::string& name) const {
  return read_number<std::uint64_t>(file_.get(), path_, object, name, H5T_NATIVE_UINT64);
}

Result<double> Reader::f64(const std::string& object, const std::string& name) const {
  return read_number<double>(file_.get(), path_, object, name, H5T_NATIVE_DOUBLE);
}

}  // namespace elaswave::hdf5
