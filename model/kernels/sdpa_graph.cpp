#include "model/kernels/sdpa_graph.h"

#include "model/kernels/cudnn_descriptor.h"
#include "parallel/device/device.h"

namespace elaswave::kernels {

/// Descriptors refer to the ones they were made of, so all live as long as the plan; members are
/// destroyed in reverse order.
struct SdpaPlan::Parts {
  SdpaGraph graph;
  CudnnDescriptor device;  // empty with a handle
  std::vector<CudnnDescriptor> tensors, functions, operations;
  CudnnDescriptor operation_graph, heuristics;
  std::vector<CudnnDescriptor> configurations;
  CudnnDescriptor plan;
};

namespace {

using Parts = SdpaPlan::Parts;

// Of attention the heuristics name up to four.
constexpr std::int64_t kMaxConfigurations = 16;

// The library reserves no number, but 0 reads as "not set" in its messages.
constexpr std::int64_t unique_id(SdpaIndex tensor) {
  return tensor + 1;
}

cudnnDataType_t data_type(SdpaType type) {
  switch (type) {
    case SdpaType::f32:
      return CUDNN_DATA_FLOAT;
    case SdpaType::bf16:
      return CUDNN_DATA_BFLOAT16;
    case SdpaType::i32:
      return CUDNN_DATA_INT32;
    case SdpaType::boolean:
      return CUDNN_DATA_BOOLEAN;
  }
  EW_CHECK(false, "tensor of type {}", static_cast<int>(type));
}

Result<CudnnDescriptor> make_tensor(const SdpaTensor& tensor, SdpaIndex index) {
  // Matrices are read by vectors of 16 bytes, numbers of queries one at a time.
  const std::int64_t alignment = tensor.type == SdpaType::bf16 ? 16 : 4;
  return CudnnBuilder(CUDNN_BACKEND_TENSOR_DESCRIPTOR, tensor.name)
      .set(CUDNN_ATTR_TENSOR_DATA_TYPE, data_type(tensor.type))
      .set_all(CUDNN_ATTR_TENSOR_DIMENSIONS, std::span<const std::int64_t>(tensor.dims))
      .set_all(CUDNN_ATTR_TENSOR_STRIDES, std::span<const std::int64_t>(tensor.strides))
      .set(CUDNN_ATTR_TENSOR_UNIQUE_ID, unique_id(index))
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, alignment)
      .set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, tensor.place == SdpaPlace::inner)
      .set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, tensor.place == SdpaPlace::scalar)
      .finish();
}

cudnnPointwiseMode_t pointwise_mode(SdpaKind kind) {
  switch (kind) {
    case SdpaKind::multiply:
      return CUDNN_POINTWISE_MUL;
    case SdpaKind::add:
      return CUDNN_POINTWISE_ADD;
    case SdpaKind::subtract:
      return CUDNN_POINTWISE_SUB;
    case SdpaKind::divide:
      return CUDNN_POINTWISE_DIV;
    case SdpaKind::exp:
      return CUDNN_POINTWISE_EXP;
    case SdpaKind::log:
      return CUDNN_POINTWISE_LOG;
    case SdpaKind::index:
      return CUDNN_POINTWISE_GEN_INDEX;
    case SdpaKind::greater_equal:
      return CUDNN_POINTWISE_CMP_GE;
    case SdpaKind::select:
      return CUDNN_POINTWISE_BINARY_SELECT;
    default:
      EW_CHECK(false, "operation {} is not pointwise", static_cast<int>(kind));
  }
}

// Indices and truths are computed in their own types, everything else in f32.
cudnnDataType_t pointwise_precision(SdpaKind kind) {
  if (kind == SdpaKind::index) return CUDNN_DATA_INT32;
  return kind == SdpaKind::greater_equal ? CUDNN_DATA_BOOLEAN : CUDNN_DATA_FLOAT;
}

Result<void> add_pointwise(Parts& parts, const SdpaOp& op) {
  CudnnBuilder mode(CUDNN_BACKEND_POINTWISE_DESCRIPTOR, "a pointwise function");
  mode.set(CUDNN_ATTR_POINTWISE_MODE, pointwise_mode(op.kind))
      .set(CUDNN_ATTR_POINTWISE_MATH_PREC, pointwise_precision(op.kind));
  if (op.kind == SdpaKind::index)
    mode.set(CUDNN_ATTR_POINTWISE_AXIS, static_cast<std::int64_t>(op.axis));
  EW_ASSIGN(CudnnDescriptor function, mode.finish());
  const auto tensor = [&](SdpaIndex index) -> const CudnnDescriptor& {
    return parts.tensors[static_cast<std::size_t>(index)];
  };
  CudnnBuilder build(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, "a pointwise operation");
  build.child(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, function)
      .child(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, tensor(op.a))
      .child(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, tensor(op.y));
  if (op.b != kNoTensor) build.child(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, tensor(op.b));
  if (op.mask != kNoTensor) build.child(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, tensor(op.mask));
  EW_ASSIGN(CudnnDescriptor operation, build.finish());
  parts.functions.push_back(std::move(function));
  parts.operations.push_back(std::move(operation));
  return {};
}

Result<void> add_operation(Parts& parts, const SdpaOp& op) {
  const auto tensor = [&](SdpaIndex index) -> const CudnnDescriptor& {
    return parts.tensors[static_cast<std::size_t>(index)];
  };
  switch (op.kind) {
    case SdpaKind::matmul: {
      EW_ASSIGN(CudnnDescriptor function, CudnnBuilder(CUDNN_BACKEND_MATMUL_DESCRIPTOR, "a product")
                                              .set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT)
                                              .finish());
      EW_ASSIGN(CudnnDescriptor operation,
                CudnnBuilder(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, "a product's operation")
                    .child(CUDNN_ATTR_OPERATION_MATMUL_DESC, function)
                    .child(CUDNN_ATTR_OPERATION_MATMUL_ADESC, tensor(op.a))
                    .child(CUDNN_ATTR_OPERATION_MATMUL_BDESC, tensor(op.b))
                    .child(CUDNN_ATTR_OPERATION_MATMUL_CDESC, tensor(op.y))
                    .finish());
      parts.functions.push_back(std::move(function));
      parts.operations.push_back(std::move(operation));
      return {};
    }
    case SdpaKind::reduce_max:
    case SdpaKind::reduce_add: {
      const auto reduction =
          op.kind == SdpaKind::reduce_max ? CUDNN_REDUCE_TENSOR_MAX : CUDNN_REDUCE_TENSOR_ADD;
      EW_ASSIGN(CudnnDescriptor function,
                CudnnBuilder(CUDNN_BACKEND_REDUCTION_DESCRIPTOR, "a reduction")
                    .set(CUDNN_ATTR_REDUCTION_OPERATOR, reduction)
                    .set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT)
                    .finish());
      EW_ASSIGN(
          CudnnDescriptor operation,
          CudnnBuilder(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, "a reduction's operation")
              .child(CUDNN_ATTR_OPERATION_REDUCTION_DESC, function)
              .child(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, tensor(op.a))
              .child(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, tensor(op.y))
              .finish());
      parts.functions.push_back(std::move(function));
      parts.operations.push_back(std::move(operation));
      return {};
    }
    case SdpaKind::reinterpret: {
      EW_ASSIGN(CudnnDescriptor operation,
                CudnnBuilder(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, "a transposition")
                    .child(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, tensor(op.a))
                    .child(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, tensor(op.y))
                    .finish());
      parts.operations.push_back(std::move(operation));
      return {};
    }
    default:
      return add_pointwise(parts, op);
  }
}

// Everything up to the configurations that the heuristics name, best first.
Result<std::unique_ptr<Parts>> configure(const SdpaGraph& graph, const SdpaTarget& target) {
  auto parts = std::make_unique<Parts>();
  parts->graph = graph;
  for (SdpaIndex i = 0; i < std::ssize(graph.tensors); ++i) {
    EW_ASSIGN(CudnnDescriptor tensor, make_tensor(graph.tensors[static_cast<std::size_t>(i)], i));
    parts->tensors.push_back(std::move(tensor));
  }
  for (const SdpaOp& op : graph.ops) EW_TRY(add_operation(*parts, op));

  CudnnBuilder operations(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, "the graph");
  operations.children(CUDNN_ATTR_OPERATIONGRAPH_OPS, parts->operations);
  CudnnBuilder heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, "the heuristics");
  if (target.handle != nullptr) {
    operations.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, target.handle);
  } else {
    EW_ASSIGN(parts->device,
              CudnnBuilder(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, "the description of the device")
                  .set_all(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                           std::span<const char>(target.device_json))
                  .finish());
    heuristics.child(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, parts->device);
  }
  EW_ASSIGN(parts->operation_graph, operations.finish());
  EW_ASSIGN(parts->heuristics,
            heuristics.child(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, parts->operation_graph)
                .set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_HEUR_MODE_A)
                .finish());
  EW_ASSIGN(parts->configurations,
            cudnn_get_children(parts->heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                               CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, kMaxConfigurations));
  return parts;
}

Result<std::string> engine_text(const CudnnDescriptor& configuration) {
  EW_ASSIGN(const std::vector<CudnnDescriptor> engines,
            cudnn_get_children(configuration, CUDNN_ATTR_ENGINECFG_ENGINE,
                               CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1));
  EW_CHECK(engines.size() == 1, "a configuration of {} engines", engines.size());
  EW_ASSIGN(const std::int64_t number,
            cudnn_get<std::int64_t>(engines[0], CUDNN_ATTR_ENGINE_GLOBAL_INDEX));
  EW_ASSIGN(const std::vector<CudnnDescriptor> knobs,
            cudnn_get_children(configuration, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                               CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, CUDNN_KNOB_TYPE_COUNTS));
  std::string text = fmt::format("engine {}:", number);
  for (const CudnnDescriptor& knob : knobs) {
    EW_ASSIGN(const cudnnBackendKnobType_t type,
              cudnn_get<cudnnBackendKnobType_t>(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE));
    EW_ASSIGN(const std::int64_t value,
              cudnn_get<std::int64_t>(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE));
    text += fmt::format(" {}={}", static_cast<int>(type), value);
  }
  return text;
}

Result<CudnnDescriptor> compile(const Parts& parts, const SdpaTarget& target,
                                const CudnnDescriptor& configuration) {
  CudnnBuilder plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, "a plan");
  plan.child(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
  if (target.handle != nullptr)
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, target.handle);
  else
    plan.child(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, parts.device);
  return plan.finish();
}

}  // namespace

SdpaPlan::SdpaPlan(std::unique_ptr<Parts> parts, std::string engine, std::int64_t workspace_bytes)
    : parts_(std::move(parts)), engine_(std::move(engine)), workspace_bytes_(workspace_bytes) {}
SdpaPlan::SdpaPlan(SdpaPlan&&) noexcept = default;
SdpaPlan& SdpaPlan::operator=(SdpaPlan&&) noexcept = default;
SdpaPlan::~SdpaPlan() = default;

Result<SdpaPlan> plan_sdpa(const SdpaGraph& graph, const SdpaTarget& target) {
  EW_ASSIGN(std::unique_ptr<Parts> parts, configure(graph, target));
  // The heuristics leave out what they know to be unsupported, without an error.
  Error refusal = cudnn_error(CUDNN_STATUS_NOT_SUPPORTED, "attention of this shape");
  for (const CudnnDescriptor& configuration : parts->configurations) {
    auto plan = compile(*parts, target, configuration);
    if (!plan && plan.error().code != Code::unavailable) return fail(std::move(plan).error());
    if (!plan) {
      refusal = std::move(plan).error();
      continue;
    }
    EW_ASSIGN(std::string engine, engine_text(configuration));
    EW_ASSIGN(const std::int64_t bytes,
              cudnn_get<std::int64_t>(*plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE));
    parts->plan = *std::move(plan);
    return SdpaPlan(std::move(parts), std::move(engine), bytes);
  }
  return fail(std::move(refusal));
}

Result<void> check_sdpa(const SdpaTarget& target) {
  const auto plan = plan_sdpa(sdpa_forward(SdpaShape::dense(1, 128, 1, 64)), target);
  if (plan) return {};
  Error error = plan.error();
  if (error.code == Code::unavailable) {
    error.what = fmt::format("cuDNN {} has no engine for any attention", cudnnGetVersion());
    error.fix = "put NVRTC (libnvrtc.so) and all parts of cuDNN where the loader finds them";
  }
  return fail(std::move(error));
}

Result<std::vector<SdpaCandidate>> sdpa_candidates(const SdpaGraph& graph,
                                                   const SdpaTarget& target) {
  EW_ASSIGN(const std::unique_ptr<Parts> parts, configure(graph, target));
  std::vector<SdpaCandidate> candidates;
  for (const CudnnDescriptor& configuration : parts->configurations) {
    SdpaCandidate candidate;
    EW_ASSIGN(candidate.engine, engine_text(configuration));
    if (const auto plan = compile(*parts, target, configuration)) {
      EW_ASSIGN(candidate.workspace_bytes,
                cudnn_get<std::int64_t>(*plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE));
    } else {
      candidate.refusal = plan.error().why;
    }
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

void SdpaPlan::run(cudnnContext* handle, std::span<const SdpaMemory> memory,
                   std::byte* workspace) const {
  std::vector<std::int64_t> ids;
  std::vector<void*> pointers;
  for (SdpaIndex i = 0; i < std::ssize(parts_->graph.tensors); ++i) {
    SdpaTensor& tensor = parts_->graph.tensors[static_cast<std::size_t>(i)];
    if (tensor.place == SdpaPlace::inner) continue;
    ids.push_back(unique_id(i));
    if (tensor.place == SdpaPlace::scalar) {
      pointers.push_back(&tensor.value);
      continue;
    }
    void* data = nullptr;
    for (const SdpaMemory& given : memory)
      if (given.binding == tensor.binding) data = given.data;
    EW_CHECK(data != nullptr, "no memory for {}", tensor.name);
    pointers.push_back(data);
  }
  const auto lost = [](std::string text) { throw device::DeviceLost(std::move(text)); };
  auto pack = CudnnBuilder(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, "a variant pack")
                  .set_all(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, std::span<const std::int64_t>(ids))
                  .set_all(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, std::span<void* const>(pointers))
                  .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, static_cast<void*>(workspace))
                  .finish();
  if (!pack) lost(pack.error().text());
  if (const cudnnStatus_t status = cudnnBackendExecute(handle, parts_->plan.get(), pack->get());
      status != CUDNN_STATUS_SUCCESS)
    lost(fmt::format("cudnnBackendExecute: {}", cudnn_text(status)));
}

}  // namespace elaswave::kernels
