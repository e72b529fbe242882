// Progress on stderr: a line that is redrawn on a terminal, otherwise one line per minute.
#pragma once
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include "lib/support/files.h"

namespace vmamba {

inline bool progress_wanted = true;  // --no-progress

// "[=====     ] 500 of 1000 images, 25.0 a second, 0:00:20 left"; total 0: not known.
inline std::string progress_text(size_t before, size_t done, size_t total, double seconds,
                                 const std::string& things = "images") {
  constexpr size_t width = 20;
  const double rate = seconds > 0 ? static_cast<double>(done - before) / seconds : 0;
  if (total == 0) return fmt::format("{} {}, {:.1f} a second", done, things, rate);
  const size_t filled = width * std::min(done, total) / total;
  const auto left =
      static_cast<int64_t>(rate > 0 && done < total ? static_cast<double>(total - done) / rate : 0);
  return fmt::format("[{:=<{}}{:<{}}] {} of {} {}, {:.1f} a second, {}:{:02}:{:02} left", "", filled, "",
                     width - filled, done, total, things, rate, left / 3600, left / 60 % 60, left % 60);
}

class Progress {
 public:
  Progress(size_t before, size_t total, std::string things = "images")
      : things_(std::move(things)),
        on_(progress_wanted && spdlog::should_log(spdlog::level::info)),
        terminal_(isatty(STDERR_FILENO) != 0),
        before_(before),
        total_(total) {}
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void clear() const {
    if (on_ && terminal_) print_stderr("\r\x1b[K");
  }
  void set_total(size_t total) { total_ = total; }
  // `more`: appended to the line.
  void show(size_t done, const std::string& more = {}) {
    const auto now = std::chrono::steady_clock::now();
    const auto pause = terminal_ ? std::chrono::milliseconds(200) : std::chrono::milliseconds(60'000);
    if (!on_ || now - shown_ < pause) return;
    shown_ = now;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const std::string text =
        progress_text(before_, done, total_, seconds, things_) + (more.empty() ? "" : ", " + more);
    if (terminal_)
      print_stderr("\r\x1b[K" + text.substr(0, columns()));  // a second line could not be cleared
    else
      spdlog::info("{}", text);
  }

 private:
  static size_t columns() {
    winsize size{};
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1
                                                                           : std::string::npos;
  }

  const std::string things_;
  bool on_, terminal_;
  size_t before_, total_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now(), shown_ = start_;
};

}  // namespace vmamba
