#include "parallel/device/named_range.h"

namespace elaswave::device {

NamedRange::NamedRange(const char*, std::int64_t) {}
NamedRange::~NamedRange() = default;

}  // namespace elaswave::device
