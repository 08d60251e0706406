// Descriptors of the cuDNN backend API (cuDNN documentation, "Backend API"): owners, and a builder
// that remembers the first thing that went wrong, so that a descriptor reads as a list of its
// attributes. Private to the files that speak to cuDNN. THREADS: one at a time for an object.
#pragma once

#include <cudnn.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/error.h"
#include "io/base/unique.h"

namespace elaswave::kernels {

struct CudnnDescriptorTraits {
  using handle_type = cudnnBackendDescriptor_t;
  static handle_type null() { return nullptr; }
  static void release(handle_type handle) { cudnnBackendDestroyDescriptor(handle); }
};
using CudnnDescriptor = Unique<CudnnDescriptorTraits>;

/// The library's own words for `status`: its name, then its last message of this thread if any.
std::string cudnn_text(cudnnStatus_t status);

/// `what` could not be done. Code::unavailable: the library does not support it; bug: it was asked
/// the wrong way; device_lost: everything else.
Error cudnn_error(cudnnStatus_t status, std::string what);

template <typename T>
constexpr cudnnBackendAttributeType_t cudnn_attribute_type();
template <>
constexpr cudnnBackendAttributeType_t cudnn_attribute_type<std::int64_t>() {
  return CUDNN_TYPE_INT64;
}
template <>
constexpr cudnnBackendAttributeType_t cudnn_attribute_type<char>() {
  return CUDNN_TYPE_CHAR;
}
template <>
constexpr cudnnBackendAttributeType_t cudnn_attribute_type<bool>() {
  return CUDNN_TYPE_BOOLEAN;
}
template <>
constexpr cudnnBackendAttributeType_t cudnn_attribute_type<void*>() {
  return CUDNN_TYPE_VOID_PTR;
}
template <>
constexpr cudnnBackendAttributeType_t cudnn_attribute_type<cudnnHandle_t>() {
  return CUDNN_TYPE_HANDLE;
}
template <>
constexpr cudnnBackendAttributeType_t cudnn_attribute_type<cudnnDataType_t>() {
  return CUDNN_TYPE_DATA_TYPE;
}
template <>
constexpr cudnnBackendAttributeType_t cudnn_attribute_type<cudnnPointwiseMode_t>() {
  return CUDNN_TYPE_POINTWISE_MODE;
}
template <>
constexpr cudnnBackendAttributeType_t cudnn_attribute_type<cudnnReduceTensorOp_t>() {
  return CUDNN_TYPE_REDUCTION_OPERATOR_TYPE;
}
template <>
constexpr cudnnBackendAttributeType_t cudnn_attribute_type<cudnnBackendHeurMode_t>() {
  return CUDNN_TYPE_HEUR_MODE;
}
template <>
constexpr cudnnBackendAttributeType_t cudnn_attribute_type<cudnnBackendKnobType_t>() {
  return CUDNN_TYPE_KNOB_TYPE;
}

class CudnnBuilder {
 public:
  /// `what` names the descriptor in errors.
  CudnnBuilder(cudnnBackendDescriptorType_t type, std::string_view what);

  template <typename T>
  CudnnBuilder& set(cudnnBackendAttributeName_t name, const T& value) {
    return set_raw(name, cudnn_attribute_type<T>(), 1, &value);
  }
  template <typename T>
  CudnnBuilder& set_all(cudnnBackendAttributeName_t name, std::span<const T> values) {
    return set_raw(name, cudnn_attribute_type<T>(), std::ssize(values), values.data());
  }
  /// Children must outlive what is built.
  CudnnBuilder& child(cudnnBackendAttributeName_t name, const CudnnDescriptor& value);
  CudnnBuilder& children(cudnnBackendAttributeName_t name, std::span<const CudnnDescriptor> values);

  /// The descriptor, or the first error. Spends the builder.
  Result<CudnnDescriptor> finish();

 private:
  CudnnBuilder& set_raw(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                        std::int64_t count, const void* values);

  std::string_view what_;
  CudnnDescriptor descriptor_;
  cudnnStatus_t status_ = CUDNN_STATUS_SUCCESS;
  Error error_;
};

/// One attribute of a finished descriptor.
template <typename T>
Result<T> cudnn_get(const CudnnDescriptor& from, cudnnBackendAttributeName_t name) {
  T value{};
  std::int64_t count = 0;
  const cudnnStatus_t status =
      cudnnBackendGetAttribute(from.get(), name, cudnn_attribute_type<T>(), 1, &count, &value);
  if (status != CUDNN_STATUS_SUCCESS)
    return fail(cudnn_error(status, fmt::format("reading attribute {}", static_cast<int>(name))));
  return value;
}

/// The first `limit` descriptors that an attribute of a finished descriptor holds, in their order.
/// (Asked for none, the library does not count them for every attribute.)
Result<std::vector<CudnnDescriptor>> cudnn_get_children(const CudnnDescriptor& from,
                                                        cudnnBackendAttributeName_t name,
                                                        cudnnBackendDescriptorType_t type,
                                                        std::int64_t limit);

}  // namespace elaswave::kernels
