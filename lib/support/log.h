// Remarks of lib/ besides results and errors: they go to the program's log or to the caller of the library.
#pragma once
#include <fmt/format.h>

#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace vmamba {

enum class LogLevel { info, warning };
using LogSink = std::function<void(LogLevel, std::string_view)>;

// During its lifetime, remarks on this thread go to `sink`; otherwise they go to spdlog.
class LogTo {
 public:
  explicit LogTo(const LogSink& sink);
  ~LogTo();
  LogTo(const LogTo&) = delete;
  LogTo& operator=(const LogTo&) = delete;

 private:
  const LogSink* before_;
};

void log_text(LogLevel level, std::string_view text);

template <class... Args>
void log_remark(LogLevel level, fmt::format_string<Args...> text, Args&&... args) {
  log_text(level, fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace vmamba
