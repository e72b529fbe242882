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
  size_t images = 0, failed = 0;                  // of this run
  size_t earlier_images = 0, earlier_failed = 0;  // of the run that this one goes on from

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
    if (images + earlier_images > 0) return;
    if (!first_error_.empty()) fail_input("{}", printable(first_error_, std::string::npos));
    if (all_failed() == 0) fail_input("standard input lists no files");
    fail_input("none of the {} could be read", counted(all_failed(), "input"));
  }
  size_t all_failed() const { return failed + earlier_failed; }
  // Warns of what was skipped and returns the exit code.
  int exit_code() const {
    if (all_failed() == 0) return 0;
    spdlog::warn("{} of {} could not be read", all_failed(),
                 counted(all_failed() + images + earlier_images, "input"));
    return 1;
  }

 private:
  static void skipped(const std::string& error) {
    spdlog::error("skipped: {}", printable(error, std::string::npos));
  }
  std::string first_error_;
};

}  // namespace vmamba
