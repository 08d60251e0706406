#include "tests/fuzz/mutate.h"

#include <algorithm>
#include <array>
#include <utility>

namespace elaswave::fuzz {
namespace {

// Around zero, sign changes, powers of two, and where products of sizes overflow.
constexpr std::uint64_t kTwo31 = std::uint64_t{1} << 31;
constexpr std::uint64_t kTwo61 = std::uint64_t{1} << 61;
constexpr std::uint64_t kTwo62 = std::uint64_t{1} << 62;
constexpr std::array<std::uint64_t, 34> kNumbers = {
    0,      1,          2,          3,          4,          7,           8,
    16,     32,         64,         100,        127,        128,         255,
    256,    1000,       4095,       4096,       32767,      32768,       65535,
    65536,  kTwo31 - 1, kTwo31,     kTwo31 + 1, 0xFFFFFFFF, 0x100000000, kTwo61 - 1,
    kTwo61, kTwo61 + 1, kTwo62 - 1, kTwo62,     kTwo62 + 1, INT64_MAX};

}  // namespace

std::string Mutator::mutated(std::string input, const std::string& other) {
  std::size_t changes = std::size_t{1} << below(5);
  while (changes-- > 0) change(input, other);
  if (input.size() > kMostInputBytes) input.resize(kMostInputBytes);
  return input;
}

void Mutator::change(std::string& input, const std::string& other) {
  switch (below(12)) {
    case 0:
    case 1:
      return flip(input);
    case 2:
    case 3:
      return set_number(input);
    case 4:
    case 5:
      return insert_word(input);
    case 6:
      return insert_noise(input);
    case 7:
      return erase(input);
    case 8:
      return repeat(input);
    case 9:
      return copy_block(input, below(2) == 0 ? std::string(input) : other);
    case 10:
      return splice(input, other);
    default:
      return change_digit(input);
  }
}

void Mutator::flip(std::string& input) {
  if (input.empty()) return;
  char& byte = input[below(input.size())];
  byte = below(2) == 0 ? static_cast<char>(byte ^ (1 << below(8))) : static_cast<char>(below(256));
}

void Mutator::set_number(std::string& input) {
  const std::size_t width = std::size_t{1} << below(4);
  if (input.size() < width) return;
  // Headers lie in front and their fields are aligned more often than not.
  const std::size_t last = input.size() - width;
  std::size_t at = below(below(2) == 0 ? std::min<std::size_t>(last, 64) + 1 : last + 1);
  if (below(2) == 0) at -= at % width;
  std::uint64_t number = 0;
  if (below(2) == 0) {
    number = kNumbers[below(kNumbers.size())];
    if (below(3) == 0) number = ~number + below(2);  // not, or minus
  } else {
    for (std::size_t i = width; i-- > 0;)
      number = number << 8 | static_cast<unsigned char>(input[at + i]);
    number += below(33);
    number -= 16;
  }
  const bool is_big_endian = below(4) == 0;
  for (std::size_t i = 0; i < width; ++i)
    input[at + (is_big_endian ? width - 1 - i : i)] = static_cast<char>(number >> (8 * i));
}

void Mutator::insert_word(std::string& input) {
  if (dictionary_.empty()) return insert_noise(input);
  const std::string& word = dictionary_[below(dictionary_.size())];
  const std::size_t at = below(input.size() + 1);
  if (below(2) == 0) {
    input.insert(at, word);
  } else {
    input.replace(at, std::min(word.size(), input.size() - at), word);
  }
}

void Mutator::insert_noise(std::string& input) {
  std::string noise(1 + below(below(4) == 0 ? 64 : 4), '\0');
  const bool is_one_byte = below(2) == 0;
  for (char& byte : noise) byte = is_one_byte ? noise[0] : static_cast<char>(below(256));
  input.insert(below(input.size() + 1), noise);
}

void Mutator::erase(std::string& input) {
  if (input.empty()) return;
  const std::size_t at = below(input.size());
  const std::size_t most = input.size() - at;
  if (below(8) == 0) return input.resize(at);
  input.erase(at, 1 + below(below(2) == 0 ? most : std::min<std::size_t>(most, 16)));
}

void Mutator::repeat(std::string& input) {
  if (input.empty() || input.size() >= kMostInputBytes) return;
  const std::size_t at = below(input.size());
  const std::string block = input.substr(at, 1 + below(64));
  for (std::size_t times = 1 + below(below(8) == 0 ? 64 : 2); times > 0; --times)
    input.insert(at, block);
}

void Mutator::copy_block(std::string& input, const std::string& source) {
  if (input.empty() || source.empty()) return;
  const std::size_t from = below(source.size());
  const std::size_t to = below(input.size());
  const std::size_t most = std::min(source.size() - from, input.size() - to);
  const std::size_t size = 1 + below(most);
  input.replace(to, size, source, from, size);
}

void Mutator::splice(std::string& input, const std::string& other) {
  if (other.empty()) return;
  const std::size_t at = below(input.size() + 1);
  const std::string tail = other.substr(below(other.size()));
  input.resize(at);
  input += tail;
}

void Mutator::change_digit(std::string& input) {
  // Numbers written as text: a digit becomes another, or a number of interest takes its place.
  const std::size_t first = input.find_first_of("0123456789", below(input.size() + 1));
  if (first == std::string::npos) return;
  if (below(2) == 0) {
    input[first] = static_cast<char>('0' + below(10));
    return;
  }
  const std::size_t end = input.find_first_not_of("0123456789", first);
  std::string number(below(4) == 0 ? 1 : 0, '-');
  number += std::to_string(kNumbers[below(kNumbers.size())]);
  input.replace(first, (end == std::string::npos ? input.size() : end) - first, number);
}

}  // namespace elaswave::fuzz
