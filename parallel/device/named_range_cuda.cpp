#include <nvtx3/nvToolsExt.h>

#include "parallel/device/named_range.h"

namespace elaswave::device {

NamedRange::NamedRange(const char* name, std::int64_t number) {
  nvtxEventAttributes_t attributes{};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.payloadType = NVTX_PAYLOAD_TYPE_INT64;
  attributes.payload.llValue = number;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name;
  static_cast<void>(nvtxRangePushEx(&attributes));
}
NamedRange::~NamedRange() {
  static_cast<void>(nvtxRangePop());
}

}  // namespace elaswave::device
