#include "io/hdf5/image.h"

#include <hdf5.h>

#include <limits>
#include <utility>

#include "io/hdf5/handles.h"
#include "io/hdf5/memory_driver.h"
#include "io/hdf5/virtual_layout.h"

namespace elaswave::hdf5 {

struct ImageWriter::State {
  MemoryFile memory;
  Driver driver;
  Unique<FileTraits> file;  // last: closing it still writes
};

namespace {

constexpr const char* kPath = "HDF5 image";
// Where HDF5 collects the small things. Holds all of a shard's, so that they lie in front of its
// data; what is left of it costs these many zeros a file.
constexpr hsize_t kMetadataBlockBytes = 16384;
constexpr unsigned kInOrder = H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED;

Result<Properties> file_access(const Driver& driver, MemoryFile& memory) {
  EW_ASSIGN(Properties access,
            owned<Properties>(H5Pcreate(H5P_FILE_ACCESS), "cannot make HDF5 properties", kPath));
  if (H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110) < 0 ||
      H5Pset_file_locking(access.get(), 0, 1) < 0 ||
      H5Pset_meta_block_size(access.get(), kMetadataBlockBytes) < 0)
    return fail(hdf5_error("cannot set HDF5 properties", kPath));
  EW_TRY(use_memory(access, driver, memory, kPath));
  return access;
}

/// Equal content is to give equal bytes, whenever it is written.
Result<void> without_times(const Properties& creation) {
  if (H5Pset_obj_track_times(creation.get(), 0) < 0)
    return fail(hdf5_error("cannot set HDF5 properties", kPath));
  return {};
}

/// For groups and for the root of a file: links and attributes are listed as they were made.
Result<Properties> in_order(Id kind) {
  EW_ASSIGN(Properties creation,
            owned<Properties>(H5Pcreate(kind), "cannot make HDF5 properties", kPath));
  if (H5Pset_link_creation_order(creation.get(), kInOrder) < 0 ||
      H5Pset_attr_creation_order(creation.get(), kInOrder) < 0)
    return fail(hdf5_error("cannot set HDF5 properties", kPath));
  EW_TRY(without_times(creation));
  return creation;
}

Result<void> create_one_group(Id file, const std::string& name) {
  const std::string where = at(kPath, name);
  EW_ASSIGN(const Properties creation, in_order(H5P_GROUP_CREATE));
  EW_ASSIGN(const Group group,
            owned<Group>(H5Gcreate2(file, name.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT),
                         "cannot create an HDF5 group", where));
  return {};
}

/// The missing groups of "/a/b/": every one by itself, as HDF5 does not hand its order on to
/// parents that it makes on the way.
Result<void> create_groups(Id file, const std::string& name) {
  for (std::size_t slash = name.find('/', 1); slash != std::string::npos;
       slash = name.find('/', slash + 1)) {
    const std::string parent = name.substr(0, slash);
    if (H5Lexists(file, parent.c_str(), H5P_DEFAULT) > 0) continue;
    H5Eclear2(H5E_DEFAULT);
    EW_TRY(create_one_group(file, parent));
  }
  return {};
}

struct DatasetPlan {
  const std::string& name;
  Id type = -1;
  std::span<const std::int64_t> dims;
  const Properties& creation;
};

Result<Dataset> create_dataset(Id file, const DatasetPlan& plan) {
  const std::string where = at(kPath, plan.name);
  EW_TRY(without_times(plan.creation));
  EW_TRY(create_groups(file, plan.name));
  EW_ASSIGN(const Space space, space_of(plan.dims, where));
  return owned<Dataset>(H5Dcreate2(file, plan.name.c_str(), plan.type, space.get(), H5P_DEFAULT,
                                   plan.creation.get(), H5P_DEFAULT),
                        "cannot create an HDF5 dataset", where);
}

/// A selection of one pattern of boxes.
Result<void> select(const Space& space, std::span<const Slab> slabs, const std::string& where) {
  std::vector<hsize_t> start, stride, count, block;
  for (const Slab& slab : slabs) {
    start.push_back(static_cast<hsize_t>(slab.start));
    // HDF5 wants block <= stride even of a single block.
    stride.push_back(static_cast<hsize_t>(slab.count == 1 ? slab.block : slab.stride));
    count.push_back(static_cast<hsize_t>(slab.count));
    block.push_back(static_cast<hsize_t>(slab.block));
  }
  if (H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), stride.data(), count.data(),
                          block.data()) < 0)
    return fail(hdf5_error("cannot select a part of an HDF5 dataset", where));
  return {};
}

Result<void> add_source(const Properties& creation, std::span<const std::int64_t> dims,
                        const VirtualSource& source, const std::string& where) {
  EW_ASSIGN(const Space target, space_of(dims, where));
  EW_ASSIGN(const Space from, space_of({&source.source_elems, 1}, where));
  for (const Mapping& mapping : virtual_mappings(dims, source.runs, source.source_begin)) {
    EW_TRY(select(target, mapping.target, where));
    EW_TRY(select(from, {&mapping.source, 1}, where));
    if (H5Pset_virtual(creation.get(), target.get(), source.file.c_str(), source.dataset.c_str(),
                       from.get()) < 0)
      return fail(hdf5_error("cannot map an HDF5 dataset", where));
  }
  return {};
}

void check_source(std::int64_t elems, const VirtualSource& source, const std::string& name) {
  std::int64_t filled = 0;
  for (const ElementRun& run : source.runs) {
    EW_CHECK(run.begin >= 0 && run.elems >= 1 && run.count >= 1 && run.count <= elems &&
                 (run.count == 1 || (run.stride >= run.elems && run.stride <= elems)),
             "a run of {} x {} from {}, {} apart, in {}", run.count, run.elems, run.begin,
             run.stride, name);
    std::int64_t room = elems - run.begin;
    if (run.count > 1 && run.stride <= room / (run.count - 1))
      room -= (run.count - 1) * run.stride;
    else if (run.count > 1)
      room = 0;
    EW_CHECK(run.elems <= room, "{} x {} elements from {}, {} apart, in {} of {}", run.count,
             run.elems, run.begin, run.stride, elems, name);
    filled += run.count * run.elems;
  }
  EW_CHECK(source.source_begin >= 0 && filled <= source.source_elems - source.source_begin,
           "{} elements from {} of {} in {}", filled, source.source_begin, source.source_elems,
           source.file);
}

}  // namespace

ImageWriter::ImageWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
ImageWriter::ImageWriter(ImageWriter&&) noexcept = default;
ImageWriter& ImageWriter::operator=(ImageWriter&&) noexcept = default;
ImageWriter::~ImageWriter() {
  if (!state_) return;
  const QuietErrors quiet;
  state_.reset();
}

Result<ImageWriter> ImageWriter::create() {
  const QuietErrors quiet;
  auto state = std::make_unique<State>();
  EW_ASSIGN(state->driver, register_memory_driver(kPath));
  EW_ASSIGN(const Properties access, file_access(state->driver, state->memory));
  EW_ASSIGN(const Properties creation, in_order(H5P_FILE_CREATE));
  EW_ASSIGN(state->file,
            owned<Unique<FileTraits>>(H5Fcreate(kPath, H5F_ACC_TRUNC, creation.get(), access.get()),
                                      "cannot create an HDF5 file", kPath));
  return ImageWriter(std::move(state));
}

Result<void> ImageWriter::create_group(const std::string& name) {
  const QuietErrors quiet;
  EW_TRY(create_groups(state_->file.get(), name + "/"));
  // Something of that name that is no group fails here.
  EW_ASSIGN(const Group group, owned<Group>(H5Gopen2(state_->file.get(), name.c_str(), H5P_DEFAULT),
                                            "cannot create an HDF5 group", at(kPath, name)));
  return {};
}

Result<std::int64_t> ImageWriter::reserve_f32(const std::string& name, std::int64_t elems) {
  const QuietErrors quiet;
  const std::string where = at(kPath, name);
  checked_elems({&elems, 1}, name);
  EW_ASSIGN(const Properties creation, contiguous_early(where));
  EW_ASSIGN(const Dataset dataset,
            create_dataset(state_->file.get(), {name, H5T_IEEE_F32LE, {&elems, 1}, creation}));
  EW_ASSIGN(const std::int64_t offset_bytes, data_offset(dataset, where));
  EW_CHECK(offset_bytes % kDataAlignment == 0, "{} begins at byte {}", name, offset_bytes);
  return offset_bytes;
}

Result<void> ImageWriter::create_virtual_f32(const std::string& name,
                                             std::span<const std::int64_t> dims,
                                             std::span<const VirtualSource> sources) {
  const QuietErrors quiet;
  const std::string where = at(kPath, name);
  EW_CHECK(!dims.empty(), "a scalar cannot be virtual: {}", name);
  const std::int64_t elems = checked_elems(dims, name);
  EW_ASSIGN(const Properties creation,
            owned<Properties>(H5Pcreate(H5P_DATASET_CREATE), "cannot make HDF5 properties", where));
  const float hole = std::numeric_limits<float>::quiet_NaN();
  if (H5Pset_fill_value(creation.get(), H5T_NATIVE_FLOAT, &hole) < 0 ||
      H5Pset_layout(creation.get(), H5D_VIRTUAL) < 0)
    return fail(hdf5_error("cannot set HDF5 properties", where));
  for (const VirtualSource& source : sources) {
    check_source(elems, source, name);
    EW_TRY(add_source(creation, dims, source, where));
  }
  EW_ASSIGN(const Dataset dataset,
            create_dataset(state_->file.get(), {name, H5T_IEEE_F32LE, dims, creation}));
  return {};
}

Result<void> ImageWriter::write_bytes(const std::string& name, std::span<const std::byte> bytes) {
  const QuietErrors quiet;
  const std::string where = at(kPath, name);
  const std::int64_t size_bytes = std::ssize(bytes);
  EW_ASSIGN(const Properties creation, contiguous_early(where));
  EW_ASSIGN(const Dataset dataset,
            create_dataset(state_->file.get(), {name, H5T_STD_U8LE, {&size_bytes, 1}, creation}));
  if (!bytes.empty() &&
      H5Dwrite(dataset.get(), H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()) < 0)
    return fail(hdf5_error("cannot write an HDF5 dataset", where));
  return {};
}

Result<void> ImageWriter::set_text(const std::string& object, const std::string& name,
                                   std::string_view text) {
  return set_attribute({state_->file.get(), kPath, object, name}, text);
}

Result<void> ImageWriter::set_i64(const std::string& object, const std::string& name,
                                  std::int64_t value) {
  return set_attribute({state_->file.get(), kPath, object, name}, value);
}

Result<void> ImageWriter::set_f64(const std::string& object, const std::string& name,
                                  double value) {
  return set_attribute({state_->file.get(), kPath, object, name}, value);
}

Result<Image> ImageWriter::close() {
  const QuietErrors quiet;
  const std::unique_ptr<State> state = std::move(state_);
  if (H5Fclose(state->file.release()) < 0)
    return fail(hdf5_error("cannot close an HDF5 file", kPath));
  Image image{.size_bytes = state->memory.size_bytes, .extents = {}};
  for (auto& [offset_bytes, bytes] : state->memory.bytes.extents())
    image.extents.push_back({offset_bytes, bytes});
  return image;
}

}  // namespace elaswave::hdf5
