#include "app/train_keys.h"

#include "app/options.h"

namespace elaswave::app {
namespace {

/// True for --section.key, --no-section.key, --config and their values: words of the option table.
bool is_key(const std::string& word) {
  const std::string name = word.substr(0, word.find('='));
  return name == "--config" || name == "-c" ||
         (name.starts_with("--") && name.find('.') != std::string::npos);
}

/// Whether the next word is this one's value.
bool wants_value(const std::string& word) {
  if (word.find('=') != std::string::npos) return false;
  if (!word.starts_with("--") || word == "--config") return true;
  const std::int64_t row = find_option(word.substr(2));
  return row >= 0 && type_name(option_table()[static_cast<std::size_t>(row)]) != "boolean";
}

}  // namespace

std::vector<std::string> take_train_keys(Arguments arguments, std::vector<std::string>& keys) {
  std::vector<std::string> own;
  for (std::size_t index = 0; index < arguments.size(); ++index) {
    const std::string& word = arguments[index];
    if (!is_key(word)) {
      own.push_back(word);
      continue;
    }
    keys.push_back(word);
    if (wants_value(word) && index + 1 < arguments.size()) keys.push_back(arguments[++index]);
  }
  return own;
}

}  // namespace elaswave::app
