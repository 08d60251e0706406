// What the files of this folder share: owners of HDF5 ids, HDF5's errors as ours, and the few calls
// that a file on disk and one in memory have in common. Included in io/hdf5/*.cpp only; hdf5.h
// stays out of it. `path` and `where` are for errors. THREADS, ERRORS: as in file.h. A caller holds
// a QuietErrors around every call.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "io/base/error.h"
#include "io/base/unique.h"
#include "io/hdf5/file.h"

namespace elaswave::hdf5 {

/// The kinds of ids, each with its closer.
enum class IdKind { space, type, properties, group, object, attribute, dataset, driver };
void close_id(IdKind kind, Id id);

template <IdKind kind>
struct IdTraits {
  using handle_type = Id;
  static handle_type null() { return -1; }
  static void release(handle_type id) { close_id(kind, id); }
};
using Space = Unique<IdTraits<IdKind::space>>;
using Type = Unique<IdTraits<IdKind::type>>;
using Properties = Unique<IdTraits<IdKind::properties>>;
using Group = Unique<IdTraits<IdKind::group>>;
using Object = Unique<IdTraits<IdKind::object>>;
using Attribute = Unique<IdTraits<IdKind::attribute>>;
using Dataset = Unique<IdTraits<IdKind::dataset>>;
using Driver = Unique<IdTraits<IdKind::driver>>;

/// Keeps HDF5 from printing its error stack while alive: we turn it into an Error instead.
class QuietErrors {
 public:
  QuietErrors();
  ~QuietErrors();
  QuietErrors(const QuietErrors&) = delete;
  QuietErrors& operator=(const QuietErrors&) = delete;

 private:
  int (*print_)(Id, void*) = nullptr;
  void* data_ = nullptr;
};

/// HDF5's error stack as an Error. The stack is cleared.
Error hdf5_error(std::string what, std::string where, Code code = Code::io);

template <typename Handle>
Result<Handle> owned(Id id, std::string_view what, const std::string& where, Code code = Code::io) {
  if (id < 0) return fail(hdf5_error(std::string(what), where, code));
  return Handle(id);
}

/// "PATH, OBJECT"
std::string at(const std::string& path, const std::string& object);

/// For links: missing parent groups are created.
Result<Properties> parents_too(const std::string& where);
/// For datasets: contiguous, placed when created, never filled.
Result<Properties> contiguous_early(const std::string& where);
/// Variable-length UTF-8.
Result<Type> utf8_text_type(const std::string& where);
/// No dims: a scalar.
Result<Space> space_of(std::span<const std::int64_t> dims, const std::string& where);
/// Number of elements. REQUIRES: every dim >= 1, and 4 bytes an element do not overflow.
std::int64_t checked_elems(std::span<const std::int64_t> dims, const std::string& name);
/// Where in the file the raw data of a dataset begin.
Result<std::int64_t> data_offset(const Dataset& dataset, const std::string& where);

/// A scalar attribute of an object.
struct AttributeName {
  Id file = -1;
  const std::string& path;
  const std::string& object;
  const std::string& name;
};
Result<void> set_attribute(const AttributeName& attribute, std::string_view text);
Result<void> set_attribute(const AttributeName& attribute, std::int64_t value);
Result<void> set_attribute(const AttributeName& attribute, std::uint64_t value);
Result<void> set_attribute(const AttributeName& attribute, double value);

}  // namespace elaswave::hdf5
