#include "io/base/clock.h"

#include <chrono>
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

}  // namespace elaswave
