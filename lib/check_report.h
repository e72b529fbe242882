// What check-equal found, as text for people and as JSON for programs (docs/check-equal.schema.json).
#pragma once
#include <string>

#include "lib/check_equal.h"

namespace vmamba {

// `all`: every tap; else the output of each block and downsample, and every tap of the blocks where the two
// begin to differ and where they leave their tolerance.
std::string text_report(const CheckResult& result, bool all);
std::string json_report(const CheckResult& result);
// One line: the verdict and the figures it rests on.
std::string summary(const CheckResult& result);

}  // namespace vmamba
