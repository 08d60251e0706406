// A view: the agreed set of live world ranks, numbered by generation. A value.
#pragma once

#include <cstdint>
#include <vector>

#include "io/base/types.h"

namespace elaswave::member {

struct View {
  Generation generation{};
  std::vector<std::int32_t> members;  // world ranks, ascending
  bool operator==(const View&) const = default;
};

}  // namespace elaswave::member
