// Identities that must not be mixed up, and the element types of storage.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace elaswave {

/// Which agreed set of live ranks is in force. Grows by one with every change of membership.
enum class Generation : std::uint32_t {};

/// One optimizer update, counted from 1; step 0 is the initial state.
enum class Step : std::int64_t {};

constexpr std::uint32_t raw(Generation generation) {
  return static_cast<std::uint32_t>(generation);
}
constexpr std::int64_t raw(Step step) {
  return static_cast<std::int64_t>(step);
}
constexpr Step next(Step step) {
  return Step{raw(step) + 1};
}

/// The state after `step`, as computed by `generation`: two attempts at one step never mix.
struct Version {
  Step step{};
  Generation generation{};
  auto operator<=>(const Version&) const = default;
};

enum class DType : std::uint8_t { f32, bf16 };

constexpr std::int64_t size_bytes(DType dtype) {
  return dtype == DType::f32 ? 4 : 2;
}
constexpr std::string_view name(DType dtype) {
  return dtype == DType::f32 ? "f32" : "bf16";
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) {
  return ceil_div(a, b) * b;
}

}  // namespace elaswave
