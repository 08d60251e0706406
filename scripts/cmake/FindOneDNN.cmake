# Finds oneDNN by header and library. Debian's own package configuration also asks for OpenCL's development files, which
# the CPU engine does not need. Defines DNNL::dnnl and OneDNN_VERSION.
find_path(OneDNN_INCLUDE_DIR NAMES dnnl.h)
find_library(OneDNN_LIBRARY NAMES dnnl)
mark_as_advanced(OneDNN_INCLUDE_DIR OneDNN_LIBRARY)
if(OneDNN_INCLUDE_DIR)
  foreach(header dnnl_version.h oneapi/dnnl/dnnl_version.h)
    if(EXISTS "${OneDNN_INCLUDE_DIR}/${header}")
      file(STRINGS "${OneDNN_INCLUDE_DIR}/${header}" defines REGEX "#define DNNL_VERSION_(MAJOR|MINOR|PATCH) ")
      string(REGEX REPLACE "[^0-9;]" "" numbers "${defines}")
      list(LENGTH numbers count)
      if(count EQUAL 3)
        list(JOIN numbers "." OneDNN_VERSION)
      endif()
    endif()
  endforeach()
endif()
# Debian's oneDNN threads with GNU OpenMP, whose team must be held to one thread (model/kernels/gemm_cpu.cpp): only the
# runtime library is linked, nothing of ours is compiled with -fopenmp.
find_package(OpenMP COMPONENTS CXX)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OneDNN REQUIRED_VARS OneDNN_LIBRARY OneDNN_INCLUDE_DIR
                                  OpenMP_gomp_LIBRARY VERSION_VAR OneDNN_VERSION)
if(OneDNN_FOUND AND NOT TARGET DNNL::dnnl)
  add_library(DNNL::dnnl UNKNOWN IMPORTED)
  set_target_properties(DNNL::dnnl PROPERTIES IMPORTED_LOCATION "${OneDNN_LIBRARY}"
                                              INTERFACE_INCLUDE_DIRECTORIES "${OneDNN_INCLUDE_DIR}"
                                              INTERFACE_LINK_LIBRARIES "${OpenMP_gomp_LIBRARY}")
endif()
