// Counts of images that were read and that could not be; an image that cannot be read is reported and skipped.
#pragma once
#include <spdlog/spdlog.h>

#include <string>
#include <utility>

#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {

class InputTally {
 public:
  size_t images = 0, failed = 0;

  void add_failed(const std::string& error) {
    report_skipped();
    if (failed++ == 0 && images == 0)
      first_error_ = error;  // not printed at once: for a single input it becomes the error of the command
    else
      skipped(error);
  }
  void add_image() {
    report_skipped();
    ++images;
  }
  void report_skipped() {
    if (!first_error_.empty()) skipped(std::exchange(first_error_, {}));
  }
  // InputError if no image could be read.
  void require_images() const {
    if (images > 0) return;
    if (failed == 1) fail_input("{}", printable(first_error_, std::string::npos));
    if (failed == 0) fail_input("standard input lists no files");
    fail_input("none of the {} could be read", counted(failed, "input"));
  }
  // Warns of what was skipped and returns the exit code.
  int exit_code() const {
    if (failed > 0) spdlog::warn("{} of {} could not be read", failed, counted(failed + images, "input"));
    return failed > 0 ? 1 : 0;
  }

 private:
  static void skipped(const std::string& error) {
    spdlog::error("skipped: {}", printable(error, std::string::npos));
  }
  std::string first_error_;
};

}  // namespace vmamba
