# elaswave_library(NAME SOURCES ... [HEADERS ...] [DEPENDS ...] [PRIVATE_DEPENDS ...])
# One static library for each second-level folder. HEADERS are compiled alone as a check that each is self-contained.
function(elaswave_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;HEADERS;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "elaswave_library(${name}): unknown arguments ${arg_UNPARSED_ARGUMENTS}")
  endif()
  add_library(${name} STATIC ${arg_SOURCES})
  target_sources(${name} PUBLIC FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}" FILES ${arg_HEADERS})
  set_target_properties(${name} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ${ELASWAVE_TESTS})
  target_link_libraries(${name} PUBLIC elaswave_options ${arg_DEPENDS} PRIVATE elaswave_warnings ${arg_PRIVATE_DEPENDS})
endfunction()

# What the sanitizer builds need: every test that runs in one process, and those with threads of ours.
add_custom_target(in_process_tests)
add_custom_target(threaded_tests)
# What the build with CUDA adds: its tests, which need no GPU, and the program itself.
add_custom_target(cuda_tests)

# elaswave_test(NAME CATEGORY unit|reference|property|golden TIMEOUT s SOURCES ... DEPENDS ... [THREADED] [CUDA])
# One GoogleTest binary, one CTest entry. TIMEOUT is mandatory: a hang is a failure with a name. THREADED tests also run
# under ThreadSanitizer (label tsan). CUDA tests are those of the build with CUDA alone (label cuda).
function(elaswave_test name)
  cmake_parse_arguments(arg "THREADED;CUDA" "CATEGORY;TIMEOUT" "SOURCES;DEPENDS;ARGS" ${ARGN})
  if(NOT arg_CATEGORY OR NOT arg_TIMEOUT OR NOT arg_SOURCES)
    message(FATAL_ERROR "elaswave_test(${name}) needs CATEGORY, TIMEOUT and SOURCES")
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_DEPENDS} elaswave_options elaswave_warnings GTest::gtest GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name} ${arg_ARGS})
  set(labels ${arg_CATEGORY})
  add_dependencies(in_process_tests ${name})
  if(arg_THREADED)
    list(APPEND labels tsan)
    add_dependencies(threaded_tests ${name})
  endif()
  if(arg_CUDA)
    list(APPEND labels cuda)
    add_dependencies(cuda_tests ${name})
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${labels}" TIMEOUT ${arg_TIMEOUT})
endfunction()

# elaswave_rank_test(NAME RANKS n TIMEOUT s SOURCES ... DEPENDS ...): the binary under mpirun with n ranks.
function(elaswave_rank_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "RANKS;SOURCES;DEPENDS" ${ARGN})
  if(NOT arg_RANKS OR NOT arg_TIMEOUT OR NOT arg_SOURCES)
    message(FATAL_ERROR "elaswave_rank_test(${name}) needs RANKS, TIMEOUT and SOURCES")
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_DEPENDS} elaswave_options elaswave_warnings GTest::gtest GTest::gmock)
  foreach(ranks IN LISTS arg_RANKS)
    add_test(NAME ${name}_${ranks}
             COMMAND ${MPIEXEC_EXECUTABLE} --allow-run-as-root --oversubscribe --mca mpi_yield_when_idle 1
                     -n ${ranks} $<TARGET_FILE:${name}>)
    set_tests_properties(${name}_${ranks} PROPERTIES LABELS "mpi;ranks_${ranks}" TIMEOUT ${arg_TIMEOUT} PROCESSORS 2)
  endforeach()
endfunction()
