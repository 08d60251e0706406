// A call that may never return, made beside the caller, who decides how long to wait for it.
#pragma once

#include <functional>

namespace elaswave::comm {

/// Asks whether a call has returned. Never blocks. THREADS: the starter's.
using HasReturned = std::function<bool()>;

/// Starts a call. It may outlive the caller, so it owns all it touches and throws nothing.
using StartCall = std::function<HasReturned(std::function<void()> call)>;

/// On a thread of its own, which is never waited for: one that hangs is left behind, and a process
/// that has left one has to end without running destructors (_exit).
HasReturned start_on_thread(std::function<void()> call);

}  // namespace elaswave::comm
