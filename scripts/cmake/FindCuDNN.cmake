# CuDNN::cudnn: the header with the CUDA headers it needs, and the library. Looks beside the CUDA compiler ELASWAVE_NVCC;
# the version is read from the header.
get_filename_component(_cudnn_toolkit "${ELASWAVE_NVCC}/../.." ABSOLUTE)
find_path(CuDNN_INCLUDE_DIR cudnn_version.h HINTS "${_cudnn_toolkit}/include")
find_path(CuDNN_CUDA_INCLUDE_DIR cuda_runtime.h HINTS "${_cudnn_toolkit}/include")
find_library(CuDNN_LIBRARY cudnn HINTS "${_cudnn_toolkit}/lib64" "${_cudnn_toolkit}/lib")
mark_as_advanced(CuDNN_INCLUDE_DIR CuDNN_CUDA_INCLUDE_DIR CuDNN_LIBRARY)
if(CuDNN_INCLUDE_DIR)
  file(STRINGS "${CuDNN_INCLUDE_DIR}/cudnn_version.h" _cudnn_lines REGEX "^#define CUDNN_(MAJOR|MINOR|PATCHLEVEL) +[0-9]+")
  string(REGEX REPLACE "[^0-9;]" "" _cudnn_numbers "${_cudnn_lines}")
  string(REPLACE ";" "." CuDNN_VERSION "${_cudnn_numbers}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CuDNN REQUIRED_VARS CuDNN_LIBRARY CuDNN_INCLUDE_DIR CuDNN_CUDA_INCLUDE_DIR
                                  VERSION_VAR CuDNN_VERSION)
if(CuDNN_FOUND AND NOT TARGET CuDNN::cudnn)
  add_library(CuDNN::cudnn UNKNOWN IMPORTED)
  set_target_properties(CuDNN::cudnn PROPERTIES
    IMPORTED_LOCATION "${CuDNN_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${CuDNN_INCLUDE_DIR};${CuDNN_CUDA_INCLUDE_DIR}")
endif()
