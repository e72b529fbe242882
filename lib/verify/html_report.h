// check-equal's findings as one self-contained page: verdict, what ran, error by layer, histogram, heat map,
// tables.
#pragma once
#include <string>

#include "lib/verify/check_equal.h"

namespace vmamba {

// `about`: lines on the program and the machine. The result's diffs should hold maps (CheckOptions::maps).
std::string html_report(const CheckResult& result, const std::string& about);

}  // namespace vmamba
