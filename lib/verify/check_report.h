// What check-equal found, as text for people and as JSON for programs (docs/check-equal.schema.json).
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "lib/model/init.h"
#include "lib/verify/check_equal.h"
#include "lib/verify/find_precision.h"
#include "lib/verify/matrix.h"
#include "lib/verify/stress.h"

namespace vmamba {

// "|a - b| <= max(1e-05, 1e-05 * max|a|) and ||a - b|| <= 1e-05 * ||a||"
std::string to_string(const Tolerance& tolerance);

// `all`: every tap; else the output of each block and downsample, and every tap of the blocks where the two
// begin to differ and where they leave their tolerance.
std::string text_report(const CheckResult& result, bool all);
std::string json_report(const CheckResult& result);

bool equal(const std::vector<StressCase>& cases);
std::string text_report(const std::vector<StressCase>& cases);
std::string json_report(const std::vector<StressCase>& cases);
std::string text_report(const Matrix& matrix);
std::string json_report(const Matrix& matrix);
std::string text_report(const PrecisionSearch& search);
std::string json_report(const PrecisionSearch& search);
std::string text_report(const Repeatability& repeated);
std::string json_report(const Repeatability& repeated);
std::string text_report(const std::optional<InitParting>& parting);
std::string json_report(const std::optional<InitParting>& parting);

// What ran as a and as b, one line each.
std::string side_a(const CheckResult& result);
std::string side_b(const CheckResult& result);

// One line: the verdict and the figures it rests on.
std::string summary(const CheckResult& result);

}  // namespace vmamba
