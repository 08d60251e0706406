#include "io/base/clock.h"

#include <fmt/chrono.h>

#include <chrono>
#include <ctime>
#include <thread>

namespace elaswave {

Nanoseconds RealClock::now() const {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void RealClock::sleep(Nanoseconds duration) {
  std::this_thread::sleep_for(std::chrono::nanoseconds(duration));
}

std::string utc_text() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm fields{};
  gmtime_r(&now, &fields);
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fields);
}

}  // namespace elaswave
