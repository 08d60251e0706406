#include "io/hdf5/handles.h"

#include <hdf5.h>

#include <limits>
#include <type_traits>
#include <vector>

#include "io/base/log.h"

namespace elaswave::hdf5 {
namespace {

static_assert(std::is_same_v<hid_t, Id>, "HDF5 before 1.10 has narrower ids");
static_assert(sizeof(hsize_t) == sizeof(std::int64_t));

extern "C" herr_t append_description(unsigned, const H5E_error2_t* entry, void* text) {
  auto& joined = *static_cast<std::string*>(text);
  if (!joined.empty()) joined += "; ";
  if (entry->desc != nullptr) joined += entry->desc;
  return 0;
}

/// The error stack from the innermost cause outwards, in one line.
std::string error_stack() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, append_description, &text);
  H5Eclear2(H5E_DEFAULT);
  return text.empty() ? "HDF5 gives no reason" : text;
}

herr_t close_by_kind(IdKind kind, Id id) {
  switch (kind) {
    case IdKind::space:
      return H5Sclose(id);
    case IdKind::type:
      return H5Tclose(id);
    case IdKind::properties:
      return H5Pclose(id);
    case IdKind::group:
      return H5Gclose(id);
    case IdKind::object:
      return H5Oclose(id);
    case IdKind::attribute:
      return H5Aclose(id);
    case IdKind::dataset:
      return H5Dclose(id);
    case IdKind::driver:
      return H5FDunregister(id);
  }
  return -1;
}

Result<void> write_attribute(const AttributeName& attribute, Id type, const void* value) {
  const QuietErrors quiet;
  const std::string where = at(attribute.path, attribute.object) + "@" + attribute.name;
  EW_ASSIGN(const Object owner,
            owned<Object>(H5Oopen(attribute.file, attribute.object.c_str(), H5P_DEFAULT),
                          "cannot open an HDF5 object", where));
  EW_ASSIGN(const Space space,
            owned<Space>(H5Screate(H5S_SCALAR), "cannot make an HDF5 space", where));
  EW_ASSIGN(const Attribute created,
            owned<Attribute>(H5Acreate2(owner.get(), attribute.name.c_str(), type, space.get(),
                                        H5P_DEFAULT, H5P_DEFAULT),
                             "cannot create an HDF5 attribute", where));
  if (H5Awrite(created.get(), type, value) < 0)
    return fail(hdf5_error("cannot write an HDF5 attribute", where));
  return {};
}

}  // namespace

void close_id(IdKind kind, Id id) {
  if (close_by_kind(kind, id) < 0) log_warn("closing an HDF5 id failed");
}

QuietErrors::QuietErrors() {
  H5Eget_auto2(H5E_DEFAULT, &print_, &data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

QuietErrors::~QuietErrors() {
  H5Eset_auto2(H5E_DEFAULT, print_, data_);
}

Error hdf5_error(std::string what, std::string where, Code code) {
  return {code, std::move(what), std::move(where), error_stack(),
          code == Code::io ? "check the disk, its free space and the names"
                           : "check that this is the file you mean, and that it is complete"};
}

std::string at(const std::string& path, const std::string& object) {
  return path + ", " + object;
}

Result<Properties> parents_too(const std::string& where) {
  EW_ASSIGN(Properties properties,
            owned<Properties>(H5Pcreate(H5P_LINK_CREATE), "cannot make HDF5 properties", where));
  if (H5Pset_create_intermediate_group(properties.get(), 1) < 0)
    return fail(hdf5_error("cannot set HDF5 properties", where));
  return properties;
}

Result<Properties> contiguous_early(const std::string& where) {
  EW_ASSIGN(Properties creation,
            owned<Properties>(H5Pcreate(H5P_DATASET_CREATE), "cannot make HDF5 properties", where));
  if (H5Pset_layout(creation.get(), H5D_CONTIGUOUS) < 0 ||
      H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY) < 0 ||
      H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER) < 0)
    return fail(hdf5_error("cannot set HDF5 properties", where));
  return creation;
}

Result<Type> utf8_text_type(const std::string& where) {
  EW_ASSIGN(Type type, owned<Type>(H5Tcopy(H5T_C_S1), "cannot make an HDF5 type", where));
  // Variable length UTF-8 is what h5py shows as str.
  if (H5Tset_size(type.get(), H5T_VARIABLE) < 0 || H5Tset_cset(type.get(), H5T_CSET_UTF8) < 0)
    return fail(hdf5_error("cannot make an HDF5 type", where));
  return type;
}

Result<Space> space_of(std::span<const std::int64_t> dims, const std::string& where) {
  const std::vector<hsize_t> extent(dims.begin(), dims.end());
  return owned<Space>(dims.empty()
                          ? H5Screate(H5S_SCALAR)
                          : H5Screate_simple(static_cast<int>(dims.size()), extent.data(), nullptr),
                      "cannot make an HDF5 space", where);
}

std::int64_t checked_elems(std::span<const std::int64_t> dims, const std::string& name) {
  std::int64_t elems = 1;
  for (const std::int64_t dim : dims) {
    EW_CHECK(dim >= 1 && elems <= std::numeric_limits<std::int64_t>::max() / 4 / dim,
             "a dim of {} in {}", dim, name);
    elems *= dim;
  }
  return elems;
}

Result<std::int64_t> data_offset(const Dataset& dataset, const std::string& where) {
  const haddr_t offset = H5Dget_offset(dataset.get());
  if (offset == HADDR_UNDEF)
    return fail(hdf5_error("an HDF5 dataset has no place in the file", where));
  return static_cast<std::int64_t>(offset);
}

Result<void> set_attribute(const AttributeName& attribute, std::string_view text) {
  EW_ASSIGN(const Type type, utf8_text_type(at(attribute.path, attribute.object)));
  const std::string terminated(text);
  const char* value = terminated.c_str();
  return write_attribute(attribute, type.get(), &value);
}

Result<void> set_attribute(const AttributeName& attribute, std::int64_t value) {
  return write_attribute(attribute, H5T_NATIVE_INT64, &value);
}

Result<void> set_attribute(const AttributeName& attribute, std::uint64_t value) {
  return write_attribute(attribute, H5T_NATIVE_UINT64, &value);
}

Result<void> set_attribute(const AttributeName& attribute, double value) {
  return write_attribute(attribute, H5T_NATIVE_DOUBLE, &value);
}

}  // namespace elaswave::hdf5
