#include "parallel/comm/threaded_call.h"

#include <gtest/gtest.h>

#include <future>
#include <memory>

#include "io/base/clock.h"

namespace elaswave::comm {
namespace {

TEST(ThreadedCall, is_asked_for_and_never_waited_for) {
  auto release = std::make_shared<std::promise<void>>();
  const HasReturned returned =
      start_on_thread([held = release->get_future().share()] { held.wait(); });
  RealClock clock;
  clock.sleep(5 * kMillisecond);
  EXPECT_FALSE(returned());
  EXPECT_TRUE(start_on_thread([] {}) != nullptr);  // forgotten at once
  release->set_value();
  const Deadline deadline = Deadline::after(clock, 20 * kSecond);
  while (!returned() && !deadline.passed(clock)) clock.sleep(kMillisecond);
  EXPECT_TRUE(returned());
}

}  // namespace
}  // namespace elaswave::comm
