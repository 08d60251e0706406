// What a profiler sees of ranges.
#include "parallel/device/named_range.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <string>

namespace elaswave::device {
namespace {

TEST(NamedRange, NamesAndNumbersReachTheProfilerNested) {
  {
    const NamedRange step("step", 3);
    const NamedRange action(std::string("1F0").c_str(), 3);
  }
  { const NamedRange step("step", 4); }
  void* const profiler = dlopen(ELASWAVE_FAKE_PROFILER, RTLD_NOW | RTLD_NOLOAD);
  ASSERT_NE(profiler, nullptr) << "nobody looked for it";
  const auto text = reinterpret_cast<const char* (*)()>(dlsym(profiler, "fake_profiler_text"));
  ASSERT_NE(text, nullptr);
  EXPECT_STREQ(text(), "step 3(1F0 3())step 4()");
  dlclose(profiler);
}

}  // namespace
}  // namespace elaswave::device
