#include "model/kernels/attention_cudnn.h"

#include "io/base/hash.h"
#include "io/base/log.h"
#include "model/kernels/cudnn_descriptor.h"

namespace elaswave::kernels {

namespace {

constexpr std::int64_t kVectorBytes = 16;  // what the engines load at once
constexpr std::int64_t kMaxHeadDim = 256;  // of forward and backward engines for Hopper
// Masks of minus infinity (sdpa_ops.cpp) are for 9.10 and later, of which .0 and .1 have faults.
constexpr std::size_t kOldestVersion = 91002;

// Every head of every row begins at a multiple of kVectorBytes if the first does.
bool fits(const ConstMat& matrix) {
  return matrix.dtype == DType::bf16 &&
         (matrix.stride * size_bytes(DType::bf16)) % kVectorBytes == 0;
}

template <typename Args>
bool common_supported(const Args& args) {
  if (args.T <= 0 || args.H <= 0 || args.qkv_N3C.cols % (3 * args.H) != 0) return false;
  const std::int64_t head_dim = args.qkv_N3C.cols / (3 * args.H);
  return args.dropout.rate == 0 && args.qkv_N3C.rows > 0 && args.qkv_N3C.rows % args.T == 0 &&
         head_dim > 0 && head_dim <= kMaxHeadDim &&
         (head_dim * size_bytes(DType::bf16)) % kVectorBytes == 0 && fits(args.qkv_N3C) &&
         fits(args.out_NC);
}

template <typename Args>
SdpaShape common_shape(const Args& args) {
  const SdpaShape shape = {.B = args.qkv_N3C.rows / args.T,
                           .T = args.T,
                           .H = args.H,
                           .D = args.qkv_N3C.cols / (3 * args.H),
                           .qkv_stride = args.qkv_N3C.stride,
                           .out_stride = args.out_NC.stride};
  EW_CHECK(args.out_NC.rows == args.qkv_N3C.rows && args.out_NC.cols == shape.C() &&
               std::ssize(args.lse_NH) >= args.qkv_N3C.rows * args.H,
           "an output of {} x {} and {} lse for {} rows of {} heads of {}", args.out_NC.rows,
           args.out_NC.cols, args.lse_NH.size(), args.qkv_N3C.rows, args.H, shape.D);
  return shape;
}

SdpaShape shape_of(const AttentionForward& args) {
  return common_shape(args);
}

SdpaShape shape_of(const AttentionBackward& args) {
  SdpaShape shape = common_shape(args);
  EW_CHECK(args.dout_NC.rows == args.out_NC.rows && args.dout_NC.cols == args.out_NC.cols &&
               args.dqkv_N3C.rows == args.qkv_N3C.rows && args.dqkv_N3C.cols == args.qkv_N3C.cols,
           "gradients of {} x {} and {} x {} for {}", args.dout_NC.rows, args.dout_NC.cols,
           args.dqkv_N3C.rows, args.dqkv_N3C.cols, shape.text());
  shape.dout_stride = args.dout_NC.stride;
  shape.dqkv_stride = args.dqkv_N3C.stride;
  return shape;
}

// What follows the library's own workspace in a backward's.
std::int64_t row_sums_begin(const SdpaPlan& plan) {
  return round_up(plan.workspace_bytes(), CudnnAttention::kWorkspaceAlignment);
}

// The library takes all memory as void*, read or written.
void* place(const ConstMat& matrix, std::int64_t column = 0) {
  EW_CHECK(reinterpret_cast<std::uintptr_t>(matrix.data) % kVectorBytes == 0,
           "a matrix at {} is not aligned to {} bytes", static_cast<const void*>(matrix.data),
           kVectorBytes);
  return const_cast<std::byte*>(matrix.data) + column * size_bytes(matrix.dtype);
}

}  // namespace

void CudnnAttention::HandleTraits::release(handle_type handle) {
  cudnnDestroy(handle);
}

Result<std::unique_ptr<CudnnAttention>> CudnnAttention::create(device::CudaDevice& device) {
  if (cudnnGetVersion() < kOldestVersion)
    return fail(Error{.code = Code::unavailable,
                      .what = fmt::format("cuDNN {} is too old", cudnnGetVersion()),
                      .where = device.name(),
                      .why = fmt::format("attention needs {}", kOldestVersion),
                      .fix = "put a newer libcudnn.so.9 where the loader finds it first"});
  device.select();  // a handle belongs to the thread's current device
  cudnnHandle_t handle = nullptr;
  if (const cudnnStatus_t status = cudnnCreate(&handle); status != CUDNN_STATUS_SUCCESS) {
    Error error = cudnn_error(status, "opening the library");
    error.where = device.name();
    return fail(std::move(error));
  }
  std::unique_ptr<CudnnAttention> attention(new CudnnAttention(device));
  attention->handle_ = Unique<HandleTraits>(handle);
  if (auto works = check_sdpa({.handle = handle}); !works) {
    works.error().where = device.name();
    return fail(std::move(works).error());
  }
  return attention;
}

CudnnAttention::~CudnnAttention() = default;

bool CudnnAttention::supported(const AttentionForward& args) {
  return common_supported(args);
}

bool CudnnAttention::supported(const AttentionBackward& args) {
  return common_supported(args) && fits(args.dout_NC) && fits(args.dqkv_N3C);
}

const Result<SdpaPlan>& CudnnAttention::plan(Plans& plans, const SdpaShape& shape,
                                             SdpaGraph (*graph)(const SdpaShape&)) {
  if (const auto found = plans.find(shape); found != plans.end()) return found->second;
  device_->select();
  Result<SdpaPlan> made = plan_sdpa(graph(shape), {.handle = handle_.get()});
  if (!made) {
    made.error().where = shape.text();
    log_warn("cuDNN has no plan for attention of {}, slower kernels of our own do it: {}",
             shape.text(), made.error().why);
  }
  return plans.emplace(shape, std::move(made)).first->second;
}

Result<std::int64_t> CudnnAttention::prepare(const AttentionForward& args) {
  EW_CHECK(supported(args), "attention that cuDNN does not take");
  const Result<SdpaPlan>& made = plan(forward_, shape_of(args), sdpa_forward);
  if (!made) return fail(made.error());
  return made->workspace_bytes();
}

Result<std::int64_t> CudnnAttention::prepare(const AttentionBackward& args) {
  EW_CHECK(supported(args), "gradient of attention that cuDNN does not take");
  const SdpaShape shape = shape_of(args);
  const Result<SdpaPlan>& made = plan(backward_, shape, sdpa_backward);
  if (!made) return fail(made.error());
  return row_sums_begin(*made) + sdpa_row_sums_bytes(shape);
}

const SdpaPlan& CudnnAttention::prepared(const Plans& plans, const SdpaShape& shape,
                                         std::int64_t extra_bytes,
                                         std::span<std::byte> workspace) const {
  const auto found = plans.find(shape);
  EW_CHECK(found != plans.end() && found->second, "no plan for attention of {}", shape.text());
  const SdpaPlan& plan = *found->second;
  const std::int64_t wanted =
      extra_bytes == 0 ? plan.workspace_bytes() : row_sums_begin(plan) + extra_bytes;
  EW_CHECK(std::ssize(workspace) >= wanted &&
               reinterpret_cast<std::uintptr_t>(workspace.data()) % kWorkspaceAlignment == 0,
           "a workspace of {} bytes at {} where {} bytes are wanted", workspace.size(),
           static_cast<const void*>(workspace.data()), wanted);
  return plan;
}

void CudnnAttention::use(device::CudaStream& stream) {
  EW_CHECK(&stream.device() == device_, "a stream of {}", stream.device().name());
  device_->select();
  if (const cudnnStatus_t status = cudnnSetStream(handle_.get(), stream.handle());
      status != CUDNN_STATUS_SUCCESS)
    throw device::DeviceLost(fmt::format("cudnnSetStream: {}", cudnn_text(status)));
}

void CudnnAttention::forward(device::CudaStream& stream, std::span<std::byte> workspace,
                             const AttentionForward& args) {
  const SdpaShape shape = shape_of(args);
  const SdpaPlan& plan = prepared(forward_, shape, 0, workspace);
  use(stream);
  const SdpaMemory memory[] = {{SdpaBinding::q, place(args.qkv_N3C)},
                               {SdpaBinding::k, place(args.qkv_N3C, shape.C())},
                               {SdpaBinding::v, place(args.qkv_N3C, 2 * shape.C())},
                               {SdpaBinding::out, place(args.out_NC)},
                               {SdpaBinding::lse, args.lse_NH.data()}};
  plan.run(handle_.get(), memory, workspace.data());
}

void CudnnAttention::backward(device::CudaStream& stream, std::span<std::byte> workspace,
                              const AttentionBackward& args) {
  const SdpaShape shape = shape_of(args);
  const SdpaPlan& plan = prepared(backward_, shape, sdpa_row_sums_bytes(shape), workspace);
  use(stream);
  const SdpaMemory memory[] = {{SdpaBinding::q, place(args.qkv_N3C)},
                               {SdpaBinding::k, place(args.qkv_N3C, shape.C())},
                               {SdpaBinding::v, place(args.qkv_N3C, 2 * shape.C())},
                               {SdpaBinding::out, place(args.out_NC)},
                               {SdpaBinding::lse, const_cast<float*>(args.lse_NH.data())},
                               {SdpaBinding::dout, place(args.dout_NC)},
                               {SdpaBinding::dq, place(args.dqkv_N3C)},
                               {SdpaBinding::dk, place(args.dqkv_N3C, shape.C())},
                               {SdpaBinding::dv, place(args.dqkv_N3C, 2 * shape.C())},
                               {SdpaBinding::row_sums, workspace.data() + row_sums_begin(plan)}};
  plan.run(handle_.get(), memory, workspace.data());
}

std::string CudnnAttention::numeric_class() const {
  return fmt::format("cudnn {}", cudnnGetVersion());
}

std::string CudnnAttention::plans_text() const {
  std::string text;
  const auto add = [&text](std::string_view direction, const Plans& plans) {
    for (const auto& [shape, plan] : plans)
      text += fmt::format("{} {} strides {} {} {} {}: {}\n", direction, shape.text(),
                          shape.qkv_stride, shape.out_stride, shape.dout_stride, shape.dqkv_stride,
                          plan ? plan->engine() : "none");
  };
  add("forward", forward_);
  add("backward", backward_);
  return text;
}

std::uint64_t CudnnAttention::plans_hash() const {
  return hash_text(plans_text(), cudnnGetVersion());
}

}  // namespace elaswave::kernels
