// A profiler as NVTX looks for one (nvtxInit.h, "NVTX_INJECTION64_PATH"): writes ranges down as
// text, "name number(" where one begins and ")" where it ends. THREADS: one.
#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <string.h>

static char text[256];

static int push(const nvtxEventAttributes_t* event) {
  const size_t used = strlen(text);
  snprintf(text + used, sizeof(text) - used, "%s %lld(", event->message.ascii,
           (long long)event->payload.llValue);
  return 0;
}
static int pop(void) {
  strncat(text, ")", sizeof(text) - strlen(text) - 1);
  return 0;
}

const char* fake_profiler_text(void) {
  return text;
}

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t export_table) {
  const NvtxExportTableCallbacks* callbacks =
      (const NvtxExportTableCallbacks*)export_table(NVTX_ETID_CALLBACKS);
  NvtxFunctionTable functions = NULL;
  unsigned int count = 0;
  if (callbacks == NULL ||
      !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &functions, &count) ||
      count <= NVTX_CBID_CORE_RangePop)
    return 0;
  *functions[NVTX_CBID_CORE_RangePushEx] = (NvtxFunctionPointer)push;
  *functions[NVTX_CBID_CORE_RangePop] = (NvtxFunctionPointer)pop;
  return 1;
}
