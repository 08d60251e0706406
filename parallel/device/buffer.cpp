#include "parallel/device/buffer.h"

namespace elaswave::device {
namespace {

constexpr std::int64_t kCacheLine = 64;

}  // namespace

Buffer::Buffer(std::int64_t bytes) : memory_(allocate(bytes, kCacheLine)), bytes_(bytes) {}

}  // namespace elaswave::device
