// The results of check-equal as text and as JSON (docs/check-equal.schema.json).
#pragma once
#include <nlohmann/json.hpp>
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
// The tolerance of a comparison and where it comes from.
std::string tolerance_line(const CheckResult& result);

// `all`: every tap; otherwise the outputs of blocks and downsamples, and every tap of the blocks with the first
// difference and with the first value outside tolerance.
std::string text_report(const CheckResult& result, bool all);
// One section per dtype, with taps for those that differ (`all`: for each).
std::string dtypes_report(const std::vector<NamedResult>& cases, bool all);
std::string stress_report(const std::vector<NamedResult>& cases);
std::string text_report(const Matrix& matrix);
std::string text_report(const PrecisionSearch& search);
std::string text_report(const Repeatability& repeated);
std::string text_report(const std::optional<InitDivergence>& divergence);

nlohmann::ordered_json json_report(const CheckResult& result);
nlohmann::ordered_json dtypes_json(const std::vector<NamedResult>& cases);
nlohmann::ordered_json stress_json(const std::vector<NamedResult>& cases);
nlohmann::ordered_json json_report(const Matrix& matrix);
nlohmann::ordered_json json_report(const PrecisionSearch& search);
nlohmann::ordered_json json_report(const Repeatability& repeated);
nlohmann::ordered_json json_report(const std::optional<InitDivergence>& divergence);

// One line each: what ran as a, and as b.
std::string side_a(const CheckResult& result);
std::string side_b(const CheckResult& result);

// One line: the verdict and its main figures.
std::string summary(const CheckResult& result);

}  // namespace vmamba
