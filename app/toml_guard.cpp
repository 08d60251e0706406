#include "app/toml_guard.h"

#include <algorithm>
#include <optional>

namespace elaswave::app {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kSpace = " \t";
constexpr int kMostKeyDots = 15;  // with 256 nested values 4,096 tables, no danger to the stack
constexpr std::string_view kSeparators = " \t\r\n]},#";  // what ends a value

struct Fault {
  std::size_t at = 0;  // byte
  std::string why;
  std::string fix;
};

bool is_ascii(char c) {
  return (static_cast<unsigned char>(c) & 0x80U) == 0;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c);
}

/// Bytes of the UTF-8 sequence at the front, or 0: no surrogates, nothing longer than needed,
/// nothing above U+10FFFF (RFC 3629, section 4). REQUIRES: text is not empty.
std::size_t sequence_bytes(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const std::size_t bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (bytes > text.size()) return 0;
  for (std::size_t i = 1; i < bytes; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const unsigned low = i > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned high = i > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (byte < low || byte > high) return 0;
  }
  return bytes;
}

/// What TOML allows nowhere.
std::optional<Fault> byte_fault(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view rest = text.substr(at);
    const std::size_t bytes = sequence_bytes(rest);
    const auto c = static_cast<unsigned char>(rest[0]);
    if (bytes == 0)
      return Fault{at, fmt::format("byte 0x{:02X} is not UTF-8 here", c), "save the file as UTF-8"};
    const bool control = c < 0x20 || c == 0x7F;
    if (control && c != '\t' && c != '\n' && !rest.starts_with("\r\n"))
      return Fault{at, fmt::format("a control character, U+{:04X}", c),
                   fmt::format("remove it; in a string in double quotes write \\u{:04X}", c)};
    at += bytes;
  }
  return std::nullopt;
}

/// Follows strings, comments and brackets just so far that it agrees with toml++ about where they
/// are until the first mistake; behind it the library reads no further.
class Scanner {
 public:
  /// REQUIRES: byte_fault(text) found nothing.
  explicit Scanner(std::string_view text) : text_(text) {
    if (text.starts_with(kByteOrderMark)) begin_ = at_ = kByteOrderMark.size();
  }

  std::optional<Fault> run() {
    while (at_ < text_.size() && !fault_) step();
    return fault_;
  }

 private:
  void step() {
    const char c = text_[at_];
    if (c == '#') return skip_to("\n");
    if (c == '"' || c == '\'') return read_string(c);
    if (c == '\n') end_line();
    if (c == '\n' || c == '\r' || kSpace.find(c) != std::string_view::npos) {
      ++at_;
      return;
    }
    if (!is_ascii(c)) return refuse_letter();
    if (c == '[' && open_.empty() && is_line_blank_) return read_header();
    if (c == '}' && (last_ == '[' || last_ == ','))
      return refuse(fmt::format("'}}' after '{}'", last_), "remove it or what is before it");
    if (is_value_ && std::string_view("[]{},").find(c) == std::string_view::npos)
      return read_word();
    if (c == '.' && ++key_dots_ > kMostKeyDots)
      return refuse(fmt::format("a key of more than {} parts", kMostKeyDots + 1),
                    "no option has that many");
    follow(c);
    take(c);
  }

  /// A number, truth value or date. toml++ takes all up to the next separator for it, quotes and
  /// brackets as well.
  void read_word() {
    constexpr std::string_view kWordMarks = "_+-.:";
    const std::size_t begin = at_;
    while (at_ < text_.size() && kSeparators.find(text_[at_]) == std::string_view::npos) {
      const char c = text_[at_];
      if (!is_ascii(c)) return refuse_letter();
      if (!is_alphanumeric(c) && kWordMarks.find(c) == std::string_view::npos)
        return refuse(fmt::format("{} next after {}", c, text_[at_ - 1]),
                      "remove it, or put the value in quotes");
      take(c);
    }
    check_word(text_.substr(begin, at_ - begin));
  }

  void check_word(std::string_view word) {
    constexpr std::size_t kMostLetters = 100;  // toml++ steps back by 127 at most, times included
    constexpr std::size_t kDateLetters = 10;
    if (word.size() > kMostLetters)
      return refuse(fmt::format("a value of more than {} characters without quotes", kMostLetters),
                    "write it shorter, or in quotes");
    std::string letters(word);
    std::erase(letters, '_');  // as toml++ does before it looks for a date
    if (letters.size() < kDateLetters || letters[4] != '-' || letters[7] != '-') return;
    const bool has_time =
        letters.size() > kDateLetters && (letters[10] == 'T' || letters[10] == 't');
    const bool is_time_missing =
        has_time && (letters.size() == kDateLetters + 1 || !is_digit(letters[11]));
    const std::string_view after = rest();
    const bool is_digit_alone = letters.size() == kDateLetters && after.size() > 2 &&
                                after[0] == ' ' && is_digit(after[1]) &&
                                kSeparators.find(after[2]) != std::string_view::npos;
    if (is_time_missing || is_digit_alone)
      refuse("a date with no time after it", "write it as 1979-05-27T07:32:00 or 1979-05-27");
  }

  void refuse_letter() {
    refuse("a character outside ASCII that is not in a string or comment",
           "put it in quotes or remove it");
  }

  /// Keeps open_, is_value_ and key_dots_.
  void follow(char c) {
    if (std::string_view("[]{}=,").find(c) != std::string_view::npos) key_dots_ = 0;
    if (c == '[' || c == '{') {
      open_.push_back(c);
      is_value_ = c == '[';
    } else if (c == ']' || c == '}') {
      if (!open_.empty()) open_.pop_back();
      is_value_ = true;  // what has ended was one
    } else if (c == '=') {
      is_value_ = true;
    } else if (c == ',') {
      is_value_ = open_.empty() || open_.back() == '[';
    }
  }

  void end_line() {
    is_line_blank_ = true;
    key_dots_ = 0;
    if (open_.empty()) is_value_ = false;
  }

  void read_header() {
    take('[');
    if (rest().starts_with('[')) take('[');
    skip_while(kSpace);
    if (at_ == text_.size()) return;
    const char c = text_[at_];
    const bool is_bare = is_alphanumeric(c) || c == '_' || c == '-';
    // toml++ itself reports a missing name.
    if (!is_bare && is_ascii(c) && c != '"' && c != '\'' && c != ']')
      refuse("a table's name must come after '['", "write it as [section]");
  }

  void read_string(char quote) {
    const std::string_view before = is_value_ ? " \t\r\n=,[{" : " \t\r\n=,[{.";
    if (at_ > begin_ && before.find(text_[at_ - 1]) == std::string_view::npos)
      return refuse(fmt::format("{} next after {}", quote, text_[at_ - 1]),
                    "remove the quote or what is before it");
    const std::string three(3, quote);
    if (rest().starts_with(three)) {
      at_ += three.size();
      skip_long_string(quote);
    } else {
      ++at_;
      while (at_ < text_.size() && text_[at_] != quote && text_[at_] != '\n') {
        const bool is_escape = text_[at_] == '\\' && quote == '"';
        at_ += is_escape && rest().substr(1, 1) != "\n" ? 2 : 1;
      }
      if (rest().starts_with(quote)) ++at_;
    }
    last_ = quote;
    is_line_blank_ = false;
  }

  void skip_long_string(char quote) {
    while (at_ < text_.size() && !fault_) {
      if (text_[at_] == quote) {
        const std::size_t begin = at_;
        skip_while(std::string_view(&quote, 1));
        const std::size_t quotes = std::min<std::size_t>(at_ - begin, 5);  // two within, three end
        at_ = begin + quotes;
        if (quotes >= 3) return;
      } else if (text_[at_] == '\\' && quote == '"') {
        skip_escape();
      } else {
        ++at_;
      }
    }
  }

  void skip_escape() {
    ++at_;
    const std::size_t begin = at_;
    skip_while(" \t\r\n");
    if (at_ < text_.size() && !is_ascii(text_[at_]))
      return refuse("a character outside ASCII after a backslash",
                    "remove the backslash and the line break after it");
    if (at_ == begin && at_ < text_.size()) ++at_;
  }

  std::string_view rest() const { return text_.substr(std::min(at_, text_.size())); }
  void skip_to(std::string_view any_of) {
    at_ = std::min(text_.find_first_of(any_of, at_), text_.size());
  }
  void skip_while(std::string_view any_of) {
    at_ = std::min(text_.find_first_not_of(any_of, at_), text_.size());
  }
  void take(char c) {
    ++at_;
    last_ = c;
    is_line_blank_ = false;
  }
  void refuse(std::string why, std::string fix) {
    fault_ = Fault{at_, std::move(why), std::move(fix)};
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t begin_ = 0;      // behind the mark
  std::string open_;           // brackets of arrays and braces, outermost first
  bool is_value_ = false;      // not a key
  int key_dots_ = 0;           // of the key being read
  bool is_line_blank_ = true;  // up to here; a comment ends with its line
  char last_ = '\n';           // that was not white space or comment
  std::optional<Fault> fault_;
};

/// Line and column of a byte, both from 1.
std::string place(std::string_view text, std::size_t at) {
  const std::string_view before = text.substr(0, at);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  std::string_view in_line = before.substr(before.rfind('\n') + 1);  // npos + 1 is 0
  if (line == 1 && in_line.starts_with(kByteOrderMark))
    in_line.remove_prefix(kByteOrderMark.size());
  const auto column =
      1 + std::count_if(in_line.begin(), in_line.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0U) != 0x80;  // begins a character
      });
  return fmt::format("{}:{}", line, column);
}

}  // namespace

Result<void> check_toml(std::string_view text, const std::string& path) {
  auto fault = byte_fault(text);
  if (!fault) fault = Scanner(text).run();
  if (!fault) return {};
  return fail({.code = Code::usage,
               .what = fmt::format("configuration file '{}' cannot be read", path),
               .where = fmt::format("{}:{}", path, place(text, fault->at)),
               .why = std::move(fault->why),
               .fix = std::move(fault->fix)});
}

}  // namespace elaswave::app
