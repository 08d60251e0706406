#include "model/kernels/cudnn_descriptor.h"

#include <algorithm>
#include <array>

namespace elaswave::kernels {

namespace {

// Statuses come in thousands: 2000 a bad parameter, 3000 not supported.
Code code_of(cudnnStatus_t status) {
  switch (static_cast<int>(status) / 1000) {
    case 2:
      return Code::bug;
    case 3:
      return Code::unavailable;
    default:
      return Code::device_lost;
  }
}

}  // namespace

std::string cudnn_text(cudnnStatus_t status) {
  std::array<char, 512> message{};
  cudnnGetLastErrorString(message.data(), message.size());
  message.back() = '\0';
  std::string detail = message.data();
  while (detail.ends_with('\n')) detail.pop_back();
  std::replace(detail.begin(), detail.end(), '\n', ';');  // errors are told in one line
  return detail.empty() ? std::string(cudnnGetErrorString(status))
                        : fmt::format("{}: {}", cudnnGetErrorString(status), detail);
}

Error cudnn_error(cudnnStatus_t status, std::string what) {
  return {.code = code_of(status),
          .what = fmt::format("cuDNN {} refused: {}", cudnnGetVersion(), what),
          .why = cudnn_text(status)};
}

CudnnBuilder::CudnnBuilder(cudnnBackendDescriptorType_t type, std::string_view what) : what_(what) {
  cudnnBackendDescriptor_t handle = nullptr;
  status_ = cudnnBackendCreateDescriptor(type, &handle);
  descriptor_ = CudnnDescriptor(handle);
  if (status_ != CUDNN_STATUS_SUCCESS)
    error_ = cudnn_error(status_, fmt::format("creating {}", what_));
}

CudnnBuilder& CudnnBuilder::child(cudnnBackendAttributeName_t name, const CudnnDescriptor& value) {
  const cudnnBackendDescriptor_t handle = value.get();
  return set_raw(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &handle);
}

CudnnBuilder& CudnnBuilder::children(cudnnBackendAttributeName_t name,
                                     std::span<const CudnnDescriptor> values) {
  std::vector<cudnnBackendDescriptor_t> handles;
  for (const CudnnDescriptor& value : values) handles.push_back(value.get());
  return set_raw(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, std::ssize(handles), handles.data());
}

CudnnBuilder& CudnnBuilder::set_raw(cudnnBackendAttributeName_t name,
                                    cudnnBackendAttributeType_t type, std::int64_t count,
                                    const void* values) {
  if (status_ != CUDNN_STATUS_SUCCESS) return *this;
  status_ = cudnnBackendSetAttribute(descriptor_.get(), name, type, count, values);
  if (status_ != CUDNN_STATUS_SUCCESS)
    error_ = cudnn_error(status_, fmt::format("attribute {} of {}", static_cast<int>(name), what_));
  return *this;
}

Result<CudnnDescriptor> CudnnBuilder::finish() {
  if (status_ == CUDNN_STATUS_SUCCESS) {
    status_ = cudnnBackendFinalize(descriptor_.get());
    if (status_ != CUDNN_STATUS_SUCCESS)
      error_ = cudnn_error(status_, fmt::format("building {}", what_));
  }
  if (status_ != CUDNN_STATUS_SUCCESS) return fail(std::move(error_));
  return std::move(descriptor_);
}

Result<std::vector<CudnnDescriptor>> cudnn_get_children(const CudnnDescriptor& from,
                                                        cudnnBackendAttributeName_t name,
                                                        cudnnBackendDescriptorType_t type,
                                                        std::int64_t limit) {
  const auto refused = [&](cudnnStatus_t status) {
    return fail(cudnn_error(status, fmt::format("reading attribute {}", static_cast<int>(name))));
  };
  // The library fills in descriptors that the caller made.
  std::vector<CudnnDescriptor> children;
  std::vector<cudnnBackendDescriptor_t> handles;
  for (std::int64_t i = 0; i < limit; ++i) {
    cudnnBackendDescriptor_t handle = nullptr;
    if (const cudnnStatus_t status = cudnnBackendCreateDescriptor(type, &handle);
        status != CUDNN_STATUS_SUCCESS)
      return refused(status);
    children.emplace_back(handle);
    handles.push_back(handle);
  }
  std::int64_t count = 0;
  if (const cudnnStatus_t status = cudnnBackendGetAttribute(
          from.get(), name, CUDNN_TYPE_BACKEND_DESCRIPTOR, limit, &count, handles.data());
      status != CUDNN_STATUS_SUCCESS)
    return refused(status);
  children.resize(static_cast<std::size_t>(std::min(count, limit)));
  return children;
}

}  // namespace elaswave::kernels
