// Random changes to inputs. Pure but for the state of its generator: equal seeds, equal inputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace elaswave::fuzz {

inline constexpr std::size_t kMostInputBytes = std::size_t{1} << 16;

class Mutator {
 public:
  Mutator(std::uint64_t seed, std::vector<std::string> dictionary)
      : random_(seed), dictionary_(std::move(dictionary)) {}

  /// 0 .. count - 1. REQUIRES: count >= 1.
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(random_() % count); }

  /// `input` after one to sixteen changes, few being likelier; some take parts of `other`.
  std::string mutated(std::string input, const std::string& other);

 private:
  void change(std::string& input, const std::string& other);
  void flip(std::string& input);
  void set_number(std::string& input);
  void insert_word(std::string& input);
  void insert_noise(std::string& input);
  void erase(std::string& input);
  void repeat(std::string& input);
  void copy_block(std::string& input, const std::string& source);
  void splice(std::string& input, const std::string& other);
  void change_digit(std::string& input);

  std::mt19937_64 random_;
  std::vector<std::string> dictionary_;
};

}  // namespace elaswave::fuzz
