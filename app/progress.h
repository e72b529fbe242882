// A line on the terminal that renews itself; nothing where stderr is no terminal.
#pragma once
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "lib/support/files.h"

namespace vmamba {

inline bool progress_wanted = true;  // --no-progress

class Progress {
 public:
  Progress(size_t before, size_t total)
      : on_(progress_wanted && isatty(STDERR_FILENO) && spdlog::should_log(spdlog::level::info)),
        before_(before),
        total_(total) {}
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void clear() const {
    if (on_) print_stderr("\r\x1b[K");
  }
  // `more`: what else stands in the line.
  void show(size_t done, const std::function<std::string()>& more) {
    const auto now = std::chrono::steady_clock::now();
    if (!on_ || now - shown_ < std::chrono::milliseconds(200)) return;
    shown_ = now;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const double rate = static_cast<double>(done - before_) / seconds;
    const auto left = static_cast<int64_t>(rate > 0 ? static_cast<double>(total_ - done) / rate : 0);
    print_stderr(fmt::format("\r\x1b[K{} of {} images, {:.1f} a second, {}:{:02}:{:02} left, {}", done,
                             total_, rate, left / 3600, left / 60 % 60, left % 60, more()));
  }

 private:
  bool on_;
  size_t before_, total_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now(), shown_ = start_;
};

}  // namespace vmamba
