/* A CUDA driver without a device, to be found as libcuda.so.1: cuDNN compiles its kernels and loads them into it, which
 * does nothing, so that plans can be made and asked for their workspace where there is no GPU. Nothing can run.
 *
 * The driver's functions are found by name, so their types here need to agree in what is written alone. Those that cuDNN
 * looks for but does not need for a plan answer that they failed. */
typedef int Result; /* CUresult */
enum { kSuccess = 0, kNoDevice = 100, kUnknown = 999 };

static int module; /* what handles point to */

/* The compiler that cuDNN brings asks here whether a device could help it; with one it would ask for more. */
Result cuInit(unsigned flags) {
  (void)flags;
  return kNoDevice;
}
Result cuDriverGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}
Result cuGetErrorName(Result error, const char** name) {
  (void)error;
  *name = "an error of the fake driver";
  return kSuccess;
}
Result cuGetErrorString(Result error, const char** text) {
  return cuGetErrorName(error, text);
}

Result cuLibraryLoadData(void** library, const void* code, void* jit_options, void* jit_values, unsigned jit_count,
                         void* options, void* values, unsigned count) {
  (void)code, (void)jit_options, (void)jit_values, (void)jit_count, (void)options, (void)values, (void)count;
  *library = &module;
  return kSuccess;
}
Result cuLibraryGetKernel(void** kernel, void* library, const char* name) {
  (void)library, (void)name;
  *kernel = &module;
  return kSuccess;
}
Result cuKernelSetAttribute(int attribute, int value, void* kernel, int device) {
  (void)attribute, (void)value, (void)kernel, (void)device;
  return kSuccess;
}
Result cuKernelGetAttribute(int* value, int attribute, void* kernel, int device) {
  (void)attribute, (void)kernel, (void)device;
  *value = 0;
  return kSuccess;
}
Result cuLibraryUnload(void* library) {
  (void)library;
  return kSuccess;
}

#define UNUSED(name) \
  Result name(void) { return kUnknown; }
UNUSED(cuCtxGetCurrent)
UNUSED(cuCtxGetLimit)
UNUSED(cuCtxPopCurrent)
UNUSED(cuCtxPushCurrent)
UNUSED(cuDeviceGet)
UNUSED(cuDeviceGetCount)
UNUSED(cuLaunchCooperativeKernel)
UNUSED(cuLaunchKernel)
UNUSED(cuLaunchKernelEx)
UNUSED(cuLibraryLoadFromFile)
UNUSED(cuLinkAddData)
UNUSED(cuLinkComplete)
UNUSED(cuLinkCreate)
UNUSED(cuLinkDestroy)
UNUSED(cuOccupancyMaxPotentialClusterSize)
UNUSED(cuStreamGetCtx)
