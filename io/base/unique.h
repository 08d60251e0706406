// The one owner of a C handle. Traits: `using handle_type`, `static handle_type null()`, `static
// void release(handle_type)`. The destructor is local: never collective, never blocking; release
// only logs what goes wrong. Moving nulls the source.
#pragma once

#include <utility>

namespace elaswave {

template <typename Traits>
class Unique {
 public:
  using Handle = typename Traits::handle_type;

  Unique() = default;
  explicit Unique(Handle handle) : handle_(handle) {}
  Unique(Unique&& other) noexcept : handle_(std::exchange(other.handle_, Traits::null())) {}
  Unique& operator=(Unique&& other) noexcept {
    if (this != &other) {
      reset();
      handle_ = std::exchange(other.handle_, Traits::null());
    }
    return *this;
  }
  Unique(const Unique&) = delete;
  Unique& operator=(const Unique&) = delete;
  ~Unique() { reset(); }

  Handle get() const { return handle_; }
  explicit operator bool() const { return handle_ != Traits::null(); }
  Handle release() { return std::exchange(handle_, Traits::null()); }
  void reset() {
    if (handle_ != Traits::null()) Traits::release(std::exchange(handle_, Traits::null()));
  }

 private:
  Handle handle_ = Traits::null();
};

}  // namespace elaswave
