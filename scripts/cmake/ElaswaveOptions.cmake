# Compiler settings as two interface targets; nothing edits CMAKE_CXX_FLAGS.
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_CXX_EXTENSIONS OFF)

find_program(ELASWAVE_CCACHE ccache)
mark_as_advanced(ELASWAVE_CCACHE)
if(ELASWAVE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${ELASWAVE_CCACHE}")
endif()

# Fuzzing wants the sanitizers that turn silent errors into endings.
option(ELASWAVE_FUZZ "build the fuzz targets (tests/fuzz) with coverage and the address sanitizer; build fuzz_targets alone" OFF)
if(ELASWAVE_FUZZ)
  set(ELASWAVE_SANITIZE address)
endif()

add_library(elaswave_options INTERFACE)
target_compile_features(elaswave_options INTERFACE cxx_std_20)
target_include_directories(elaswave_options INTERFACE "${PROJECT_SOURCE_DIR}")
# -ffp-contract=off: g++ fuses a*b+c by default, and the same text must give the same bits on every backend.
# -fno-math-errno, -fno-trapping-math change no value: they let the compiler vectorise sqrt and comparisons.
set(ELASWAVE_HOST_FLAGS -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-omit-frame-pointer)
if(ELASWAVE_SANITIZE STREQUAL "address")
  list(APPEND ELASWAVE_HOST_FLAGS -fsanitize=address,undefined -fno-sanitize-recover=all -g1)
  target_link_options(elaswave_options INTERFACE -fsanitize=address,undefined)
elseif(ELASWAVE_SANITIZE STREQUAL "thread")
  list(APPEND ELASWAVE_HOST_FLAGS -fsanitize=thread -g1)
  target_link_options(elaswave_options INTERFACE -fsanitize=thread)
elseif(NOT ELASWAVE_SANITIZE STREQUAL "")
  message(FATAL_ERROR "ELASWAVE_SANITIZE is '${ELASWAVE_SANITIZE}'; it takes address, thread or nothing")
endif()
target_compile_options(elaswave_options INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${ELASWAVE_HOST_FLAGS}>")
if(ELASWAVE_FUZZ)
  # The engine that is called back must not be traced itself.
  target_compile_options(elaswave_options INTERFACE
                         $<$<NOT:$<BOOL:$<TARGET_PROPERTY:ELASWAVE_UNTRACED>>>:-fsanitize-coverage=trace-pc>)
endif()

add_library(elaswave_warnings INTERFACE)
# missing-field-initializers: g++ 12 warns of designated initialisers whose other fields have defaults, which is our idiom.
target_compile_options(elaswave_warnings INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wnon-virtual-dtor;-Woverloaded-virtual;-Wundef;-Wno-missing-field-initializers;-Werror>")
if(ELASWAVE_SANITIZE)
  # g++ 12's flow analysis loses track behind the sanitizers' checks and warns of std::variant's own storage.
  target_compile_options(elaswave_warnings INTERFACE -Wno-maybe-uninitialized)
endif()

include(ElaswaveCuda)  # the CUDA language, when nvcc is found
