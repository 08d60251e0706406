# NCCL::headers (nccl.h and the CUDA headers it needs) and NCCL::nccl (the library too). Looks beside the CUDA compiler
# ELASWAVE_NVCC; the version is read from the header.
get_filename_component(_nccl_toolkit "${ELASWAVE_NVCC}/../.." ABSOLUTE)
find_path(NCCL_INCLUDE_DIR nccl.h HINTS "${_nccl_toolkit}/include")
find_path(NCCL_CUDA_INCLUDE_DIR cuda_runtime.h HINTS "${_nccl_toolkit}/include")
find_library(NCCL_LIBRARY nccl HINTS "${_nccl_toolkit}/lib64" "${_nccl_toolkit}/lib")
mark_as_advanced(NCCL_INCLUDE_DIR NCCL_CUDA_INCLUDE_DIR NCCL_LIBRARY)
if(NCCL_INCLUDE_DIR)
  file(STRINGS "${NCCL_INCLUDE_DIR}/nccl.h" _nccl_lines REGEX "^#define NCCL_(MAJOR|MINOR|PATCH) +[0-9]+")
  string(REGEX REPLACE "[^0-9;]" "" _nccl_numbers "${_nccl_lines}")
  string(REPLACE ";" "." NCCL_VERSION "${_nccl_numbers}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR NCCL_CUDA_INCLUDE_DIR
                                  VERSION_VAR NCCL_VERSION)
if(NCCL_FOUND AND NOT TARGET NCCL::nccl)
  add_library(NCCL::headers INTERFACE IMPORTED)
  target_include_directories(NCCL::headers INTERFACE "${NCCL_INCLUDE_DIR}" "${NCCL_CUDA_INCLUDE_DIR}")
  add_library(NCCL::nccl UNKNOWN IMPORTED)
  set_target_properties(NCCL::nccl PROPERTIES IMPORTED_LOCATION "${NCCL_LIBRARY}"
                                              INTERFACE_LINK_LIBRARIES NCCL::headers)
endif()
