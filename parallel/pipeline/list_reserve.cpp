#include "parallel/pipeline/list_reserve.h"

#include <algorithm>

#include "parallel/pipeline/program.h"

namespace elaswave::pipeline {

bool StashReserve::has_room(const Progress& progress, std::int32_t micro_batch) const {
  if (live_ >= cap_) return false;
  return !is_younger(progress, micro_batch) || live_ - settled_ < cap_ - chunks_;
}

static_assert(kSendsInFlight >= 2, "the young need a send beside the one kept for the oldest");

bool LinkReserve::has_room(std::int32_t micro_batch) const {
  const std::int32_t waiting = sent_ - taken_;
  if (waiting < kSendsInFlight - 1) return true;  // whoever asks: claims are elsewhere in memory
  if (waiting >= kSendsInFlight) return false;
  const std::int32_t oldest = claims_.oldest();
  return oldest < 0 || oldest == micro_batch;
}

std::int32_t LinkReserve::send(const Progress& progress) {
  while (claims_.drop_settled(progress)) {
  }
  return sent_++;
}

void LinkReserve::take(std::int32_t message) {
  taken_ = std::max(taken_, message + 1);
}

}  // namespace elaswave::pipeline
