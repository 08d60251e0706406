#include "tests/gpu/repeated_step.h"

#include <numeric>
#include <optional>

#include "io/base/hash.h"

namespace elaswave::test {
namespace {

constexpr int kBallast = 24;                   // allocations that lie around the step's own
constexpr float kInitialSpread = 0.0346f;      // uniform within it: standard deviation 0.02
constexpr std::int64_t kBlockElems = 1 << 14;  // 64 KiB, what ops.h takes as a block

std::vector<std::int32_t> random_tokens(const RepeatedModel& model, std::uint64_t which) {
  const RandomStream stream = random_stream(model.seed, RandomUse::test, which);
  const auto vocab = static_cast<std::uint64_t>(model.config.vocab);
  std::vector<std::int32_t> tokens(
      static_cast<std::size_t>(model.micro_batch * model.config.context));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<std::int32_t>(random_word(stream, i) % vocab);
  return tokens;
}

// As small as those that training begins with; biases too, so that no sum is trivial.
std::vector<float> random_weights(const spec::TensorSpec& tensor, const RandomStream& stream) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elems()));
  const float centre = tensor.init == spec::InitRule::ones ? 1.0f : 0.0f;
  for (std::size_t i = 0; i < values.size(); i += 4) {
    const auto words = philox(stream, i / 4);
    for (std::size_t j = 0; j < 4 && i + j < values.size(); ++j)
      values[i + j] = centre + kInitialSpread * (2 * uniform01(words[j]) - 1);
  }
  return values;
}

std::vector<std::int64_t> storage_bytes(const spec::Inventory& inventory) {
  std::vector<std::int64_t> bytes;
  for (const spec::TensorSpec& tensor : inventory.tensors())
    bytes.push_back(size_bytes(tensor.storage));
  return bytes;
}

Result<void> at_once(std::int32_t) {
  return {};
}

}  // namespace

struct RepeatedStep::Held {
  // Allocations of odd sizes, a part of which goes again before the step takes its own: so its
  // memory lies in holes between them, each time other ones.
  Held(RepeatedStep& step, std::uint64_t choice) {
    device::Device& device = step.context_.device();
    const RandomStream stream = random_stream(choice, RandomUse::test);
    for (std::uint64_t i = 0; i < kBallast; ++i)
      ballast.emplace_back(device, 1 + random_word(stream, i) % (std::uint32_t{8} << (i % 20)));
    for (std::uint64_t i = 0; i < kBallast / 2; ++i)
      ballast.erase(ballast.begin() + random_word(stream, kBallast + i) % std::ssize(ballast));

    const std::vector<std::int64_t> bytes = storage_bytes(step.inventory_);
    const auto take_working = [&] { working.emplace(step.blocks_, bytes, device); };
    const auto take_sums = [&] {
      sums.emplace(step.blocks_, zero::SumMode::exact, std::vector<bool>(bytes.size(), true),
                   step.machine_.arithmetic);
    };
    if (choice % 2 == 0) take_working();
    take_sums();
    if (choice % 2 != 0) take_working();
    parameters.emplace(step.inventory_, *working);
    gradients.emplace(
        step.inventory_, *sums, 1,
        kernels::loss_contributions(step.context_.tokens(), step.context_.loss_chunk_tokens));
    model.emplace(step.context_, step.inventory_, *parameters, *gradients);
    control_C = device::Array<float>(device, step.model_.config.hidden);
  }

  std::vector<device::Buffer> ballast;
  std::optional<zero::TensorStore> working;
  std::optional<zero::GradSums> sums;
  std::optional<layers::Parameters> parameters;
  std::optional<layers::Gradients> gradients;
  std::optional<gpt::WholeModel> model;
  device::Array<float> control_C;
};

RepeatedStep::RepeatedStep(const kernels::Machine& machine, const RepeatedModel& model)
    : machine_(machine),
      model_(model),
      inventory_(model.config, model.storage),
      blocks_(inventory_.blocks()),
      context_{.ops = machine.ops,
               .stream = machine.stream,
               .config = model_.config,
               .micro_batch = model.micro_batch,
               .storage = model.storage,
               .loss_chunk_tokens = model.loss_chunk_tokens},
      masters_(machine.stream.device(), inventory_.total_elems()),
      positions_(static_cast<std::size_t>(model.micro_batch)),
      ids_(random_tokens(model, 1)),
      targets_(random_tokens(model, 2)) {
  std::iota(positions_.begin(), positions_.end(), 0);
  initialize();
  move(0);
}

void RepeatedStep::initialize() {
  float* to = masters_.span().data();
  for (std::size_t i = 0; i < inventory_.tensors().size(); ++i) {
    const std::vector<float> values =
        random_weights(inventory_.tensors()[i], random_stream(model_.seed, RandomUse::test, 3 + i));
    machine_.stream.copy(to, values.data(), std::ssize(values) * std::int64_t{sizeof(float)});
    to += values.size();
  }
}

void RepeatedStep::store_weights() {
  std::vector<kernels::StoreWeights> blocks;
  std::span<const float> left = masters_.span();
  for (std::size_t i = 0; i < inventory_.tensors().size(); ++i) {
    const spec::TensorSpec& tensor = inventory_.tensors()[i];
    std::byte* const stored = held_->working->part(static_cast<std::int32_t>(i));
    for (std::int64_t first = 0; first < tensor.elems(); first += kBlockElems) {
      const auto elems = static_cast<std::size_t>(std::min(kBlockElems, tensor.elems() - first));
      blocks.push_back({.master = left.first(elems),
                        .stored = stored + first * size_bytes(tensor.storage),
                        .dtype = tensor.storage});
      left = left.subspan(elems);
    }
  }
  machine_.ops.store_weights(machine_.stream, blocks);
}

RepeatedStep::~RepeatedStep() {
  machine_.stream.synchronize();  // before what it works on goes
}

void RepeatedStep::move(std::uint64_t choice) {
  machine_.stream.synchronize();
  held_.reset();
  held_ = std::make_unique<Held>(*this, choice);
  store_weights();
}

Result<std::uint64_t> RepeatedStep::run(const UnorderedSum* control) {
  const layers::MicroBatch batch{model_.seed, Step{1},  positions_,
                                 ids_,        targets_, model_.config.dropout};
  held_->sums->begin_step();
  EW_TRY(held_->model->forward(batch, at_once));
  EW_TRY(held_->model->backward(batch, at_once));
  if (control != nullptr) {
    const auto last = static_cast<std::int32_t>(inventory_.tensors().size()) - 1;
    (*control)(machine_.stream, {held_->model->head_input_NC(),
                                 held_->control_C,
                                 {reinterpret_cast<std::int64_t*>(held_->sums->data(last)),
                                  static_cast<std::size_t>(inventory_.tensor(last).elems())}});
  }
  const std::uint64_t bits = digest();
  const std::vector<std::string> bad = held_->gradients->bad_tensors();
  if (!bad.empty())
    return fail({Code::non_finite, "a gradient is out of the range of the sums", bad[0], "", ""});
  return bits;
}

// On the device, where the sums are; the losses are the host's.
std::uint64_t RepeatedStep::digest() {
  std::vector<std::span<const float>> ranges;
  std::vector<std::uint64_t> keys;
  for (std::size_t i = 0; i < inventory_.tensors().size(); ++i) {
    const auto words = static_cast<std::size_t>(2 * inventory_.tensors()[i].elems());
    ranges.emplace_back(
        reinterpret_cast<const float*>(held_->sums->data(static_cast<std::int32_t>(i))), words);
    keys.push_back(i + 1);
  }
  std::vector<std::uint64_t> sums(ranges.size());
  machine_.ops.digest(machine_.stream, ranges, keys, sums);
  machine_.stream.synchronize();
  const std::span<const float> losses = held_->model->losses();
  loss_ = std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(losses.size());
  return hash_bytes(std::as_bytes(losses), hash_bytes(std::as_bytes(std::span(sums))));
}

std::uint64_t RepeatedStep::place() const {
  const void* addresses[] = {held_->working->part(0), held_->sums->data(0),
                             held_->model->head_input_NC().data, held_->control_C.span().data()};
  return hash_bytes(std::as_bytes(std::span(addresses)));
}

std::int64_t RepeatedStep::bytes() const {
  return held_->working->size_bytes() + held_->sums->size_bytes() +
         held_->model->activation_bytes();
}

}  // namespace elaswave::test
