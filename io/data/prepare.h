// Text to tokens: `elaswave data prepare`. Bytes are the tokens ("bytes-v1"): ids 0..255, and 256
// ends a document. Streams: memory use does not depend on the size of the inputs, except that one
// JSONL line is held whole. THREADS: any, one call each. ERRORS: Code::data (JSONL errors name file
// and line), Code::usage for options that contradict each other, Code::io. Outputs appear complete
// or not at all.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/base/error.h"

namespace elaswave::data {

enum class InputKind : std::uint8_t {
  by_name,  // .jsonl and .ndjson are JSONL, everything else is text
  text,     // any bytes; the whole file is one document
  jsonl,    // one JSON object a line; blank lines are skipped; each object is one document
};

struct PrepareOptions {
  std::vector<std::string> inputs;  // read in this order; pipes are fine
  std::string output;               // replaced when present
  std::string val_output;           // empty: no hold-out
  double val_fraction = 0.05;       // used with val_output: in (0, 1)
  InputKind kind = InputKind::by_name;
  std::string jsonl_field = "text";  // a string member of every object
};

struct PrepareReport {
  std::int64_t documents = 0;
  std::int64_t input_bytes = 0;  // of text, i.e. tokens without end marks
  std::int64_t tokens = 0;       // train and held-out together
  std::int64_t train_tokens = 0;
  std::int64_t val_tokens =
      0;  // floor(tokens * val_fraction), the end of the corpus; 0 without val_output
};

/// Writes the token file(s). The held-out part is the last floor(tokens * val_fraction) tokens (the
/// product in double), contiguous; the cut may fall inside a document. An error when either part
/// would be empty.
Result<PrepareReport> prepare(const PrepareOptions& options);

/// The report as lines for a person.
std::vector<std::string> lines(const PrepareReport& report, const PrepareOptions& options);

}  // namespace elaswave::data
