// Errors that reach the user as one line. The type decides the exit code (docs/architecture.md).
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace vmamba {

// Wrong usage, config, weights or input: exit code 2. The text says what is wrong, where, and how to fix it.
struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The device or the machine failed (driver, memory, disk): exit code 3.
struct MachineError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The device has no memory left; a caller may retry with a smaller batch. Exit code 3 otherwise.
struct OutOfMemory : MachineError {
  using MachineError::MachineError;
};

template <class... Args>
[[noreturn]] void fail_input(fmt::format_string<Args...> text, Args&&... args) {
  throw InputError(fmt::format(text, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void fail_machine(fmt::format_string<Args...> text, Args&&... args) {
  throw MachineError(fmt::format(text, std::forward<Args>(args)...));
}

// An invariant of this program, checked in Release builds too: if it does not hold, that is a bug, and the
// text names it. The arguments are evaluated even if it holds: hand over values, not formatted text.
template <class... Args>
void check(bool holds, fmt::format_string<Args...> text, Args&&... args) {
  if (!holds) throw std::logic_error(fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace vmamba
