#include "lib/support/log.h"

#include <spdlog/spdlog.h>

namespace vmamba {
namespace {
thread_local const LogSink* sink_of_thread = nullptr;
}

LogTo::LogTo(const LogSink& sink) : before_(std::exchange(sink_of_thread, &sink)) {}
LogTo::~LogTo() {
  sink_of_thread = before_;
}

void log_text(LogLevel level, std::string_view text) {
  if (sink_of_thread != nullptr)
    (*sink_of_thread)(level, text);
  else
    spdlog::log(level == LogLevel::info ? spdlog::level::info : spdlog::level::warn, "{}", text);
}

}  // namespace vmamba
