// Without a GPU: cuDNN has plans for our attention graphs on sm_90. Links the real library; a fake
// driver stands in front of the real one (tests/support/cuda/fake_libcuda.c), and the device is a
// description in JSON. Prints engines, workspace and compile times; the times prove nothing.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <fstream>
#include <regex>
#include <sstream>

#include "model/kernels/sdpa_graph.h"
#include "model/spec/config.h"
#include "parallel/device/device.h"

namespace elaswave::kernels {
namespace {

std::string read_text(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class SdpaSupport : public ::testing::Test {
 protected:
  SdpaTarget target() const { return {.device_json = properties_}; }

  // A plan for each direction, with what it is printed.
  void expect_plans(const std::string& name, const SdpaShape& shape) const {
    SdpaShape forward = shape;
    forward.dout_stride = forward.dqkv_stride = 0;
    expect_plan(name + " forward", shape, sdpa_forward(forward));
    expect_plan(name + " backward", shape, sdpa_backward(shape));
  }

 private:
  void expect_plan(const std::string& name, const SdpaShape& shape, const SdpaGraph& graph) const {
    const auto begin = std::chrono::steady_clock::now();
    const Result<SdpaPlan> plan = plan_sdpa(graph, target());
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    ASSERT_TRUE(plan) << name << " " << shape.text() << ": " << plan.error().text();
    fmt::print("{:<22} {:<20} {:<18} workspace {:>10} bytes, made in {:.1f} s\n", name,
               shape.text(), plan->engine(), plan->workspace_bytes(), seconds.count());
    // Nothing of the size of all probabilities but their gradient, in tiles, may be in memory.
    const std::int64_t tiled = round_up(shape.T, 128);
    EXPECT_LE(plan->workspace_bytes(), 2 * shape.B * shape.H * tiled * tiled + 4096);
  }

  std::string properties_ = read_text(ELASWAVE_DEVICE_PROPERTIES);
};

TEST_F(SdpaSupport, presets) {
  for (const spec::Preset& preset : spec::presets()) {
    const std::string config =
        read_text(fmt::format("{}/configs/{}.toml", ELASWAVE_SOURCE_DIR, preset.name));
    std::smatch batch;
    const std::int64_t B = std::regex_search(config, batch, std::regex("micro_batch *= *([0-9]+)"))
                               ? std::stoll(batch[1])
                               : 4;
    const spec::ModelConfig& model = preset.config;
    expect_plans(std::string(preset.name),
                 SdpaShape::dense(B, model.context, model.heads, model.head_dim()));
  }
}

TEST_F(SdpaSupport, head_dimensions_and_contexts) {
  for (const auto& [B, T, H, D] : std::vector<std::array<std::int64_t, 4>>{{4, 2048, 16, 80},
                                                                           {4, 2048, 16, 96},
                                                                           {1, 8192, 16, 128},
                                                                           {2, 4096, 16, 128},
                                                                           {4, 2048, 16, 256},
                                                                           {1, 1000, 3, 72},
                                                                           {3, 1, 1, 8}})
    expect_plans("", SdpaShape::dense(B, T, H, D));
}

// Rows further apart than they are wide, each matrix its own way.
TEST_F(SdpaSupport, strides) {
  expect_plans("strided", {.B = 2,
                           .T = 512,
                           .H = 4,
                           .D = 64,
                           .qkv_stride = 3 * 256 + 8,
                           .out_stride = 256 + 16,
                           .dout_stride = 256 + 24,
                           .dqkv_stride = 3 * 256 + 32});
}

// The engines named for the deterministic backward; the plan is the first supported of them.
TEST_F(SdpaSupport, the_choice_is_the_first_supported_configuration) {
  const SdpaShape shape = SdpaShape::dense(4, 1024, 16, 64);
  const SdpaGraph graph = sdpa_backward(shape);
  const auto candidates = sdpa_candidates(graph, target());
  ASSERT_TRUE(candidates) << candidates.error().text();
  const SdpaCandidate* first = nullptr;
  for (const SdpaCandidate& candidate : *candidates) {
    fmt::print("{:<18} workspace {:>10} bytes {}\n", candidate.engine, candidate.workspace_bytes,
               candidate.refusal);
    if (first == nullptr && candidate.refusal.empty()) first = &candidate;
  }
  ASSERT_NE(first, nullptr);
  const auto plan = plan_sdpa(graph, target());
  ASSERT_TRUE(plan) << plan.error().text();
  EXPECT_EQ(plan->engine(), first->engine);
  EXPECT_EQ(plan->workspace_bytes(), first->workspace_bytes);
}

// Without a handle nothing runs, but everything up to the library's own call has been done: every
// tensor of the caller has been found and the library has taken the list.
TEST_F(SdpaSupport, a_run_that_fails_loses_the_device) {
  const SdpaGraph graph = sdpa_forward(SdpaShape::dense(1, 128, 1, 64));
  const auto plan = plan_sdpa(graph, target());
  ASSERT_TRUE(plan) << plan.error().text();
  alignas(256) std::array<std::byte, 256> anywhere{};
  std::vector<SdpaMemory> memory;
  for (const SdpaBinding binding :
       {SdpaBinding::q, SdpaBinding::k, SdpaBinding::v, SdpaBinding::out, SdpaBinding::lse})
    memory.push_back({binding, anywhere.data()});
  try {
    plan->run(nullptr, memory, anywhere.data());
    FAIL() << "ran without a device";
  } catch (const device::DeviceLost& lost) {
    EXPECT_NE(std::string(lost.what()).find("cudnnBackendExecute"), std::string::npos)
        << lost.what();
  }
}

// What a missing NVRTC looks like: not one engine, for no reason that is told.
TEST_F(SdpaSupport, a_library_without_engines_is_told_from_a_refusal) {
  const auto works = check_sdpa(target());
  EXPECT_TRUE(works) << works.error().text();
  const std::string old =
      std::regex_replace(read_text(ELASWAVE_DEVICE_PROPERTIES),
                         std::regex("\"deviceVer\" *: *[0-9]+"), "\"deviceVer\": 500");
  const auto nothing = check_sdpa({.device_json = old});
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code, Code::unavailable) << nothing.error().text();
  EXPECT_NE(nothing.error().text().find("NVRTC"), std::string::npos) << nothing.error().text();
}

TEST_F(SdpaSupport, refusals_have_a_reason) {
  const auto plan = plan_sdpa(sdpa_backward(SdpaShape::dense(1, 256, 1, 1024)), target());
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, Code::unavailable) << plan.error().text();
  EXPECT_NE(plan.error().why.find("256"), std::string::npos) << plan.error().text();
  EXPECT_EQ(plan.error().why.find('\n'), std::string::npos) << plan.error().text();

  // A description that is none is not taken for a device.
  const auto nowhere =
      plan_sdpa(sdpa_forward(SdpaShape::dense(1, 256, 1, 64)), {.device_json = "{}"});
  ASSERT_FALSE(nowhere);
  EXPECT_NE(nowhere.error().text().find("cuDNN"), std::string::npos) << nowhere.error().text();
}

}  // namespace
}  // namespace elaswave::kernels
