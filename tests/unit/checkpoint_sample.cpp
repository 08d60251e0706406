// checkpoint_sample DIR: writes the sample checkpoint there, for readers in other languages.
#include "tests/unit/checkpoint_sample.h"

int main(int count, char** arguments) {
  if (count != 2) return 2;
  const std::string directory = arguments[1];
  elaswave::testing::write_sample_index(directory,
                                        elaswave::testing::write_sample_shards(directory));
  return ::testing::Test::HasFailure() ? 1 : 0;
}
