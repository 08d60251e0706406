#include "app/tune.h"

#include <cstdio>

namespace elaswave::app {
namespace {

std::string_view trimmed(std::string_view text, std::string_view what = " \t") {
  text.remove_prefix(std::min(text.find_first_not_of(what), text.size()));
  return text.substr(0, text.find_last_not_of(what) + 1);
}

}  // namespace

Result<TuneFile> TuneFile::open(const std::string& path) {
  if (path.empty()) return TuneFile(std::nullopt);
  EW_ASSIGN(File file, File::append(path));
  EW_ASSIGN(const std::int64_t bytes, file.size_bytes());
  std::string text(static_cast<std::size_t>(bytes), '\0');
  EW_TRY(file.read_at(0, std::as_writable_bytes(std::span(text))));
  // A line that was stopped in the middle is measured again.
  text.resize(text.rfind('\n') + 1);  // npos + 1 is 0
  EW_TRY(file.resize(std::ssize(text)));
  TuneFile made(std::move(file));
  made.read(text);
  return made;
}

void TuneFile::read(std::string_view text) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = trimmed(text.substr(0, end), " \t#");
    text.remove_prefix(end + 1);
    if (line.starts_with("library ")) {
      several_ = several_ || !section_.empty();
      section_ = line;
    } else if (const std::size_t colon = line.find(" : "); colon != std::string_view::npos) {
      finished_.emplace(line.substr(0, colon));
    }
  }
}

Result<void> TuneFile::begin(std::string_view section) {
  if (!several_ && section_ == section) return {};
  if (!section_.empty())
    return fail({.code = Code::usage,
                 .what = "the table has rows of another library or device",
                 .where = file_ ? file_->path() : "",
                 .why = fmt::format("it says '{}'{}, this is '{}'", section_,
                                    several_ ? " among others" : "", section),
                 .fix = "give another --out, or remove the file"});
  section_ = section;
  return add(fmt::format("{}\n", section));
}

Result<void> TuneFile::note(std::string_view text) {
  return add(fmt::format("# {}\n", text));
}

Result<void> TuneFile::add(std::string_view lines) {
  if (!file_) {
    std::fwrite(lines.data(), 1, lines.size(), stdout);
    std::fflush(stdout);
    return {};
  }
  return file_->write_all(std::as_bytes(std::span(lines)));
}

}  // namespace elaswave::app
