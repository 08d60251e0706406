// toml++ once more, in this build's own flags: the system's library has neither assertions nor
// sanitizers nor coverage. Definitions of a program come before those of a shared library.
#define TOML_IMPLEMENTATION
#include <toml++/toml.h>
