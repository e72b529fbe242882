// Errors against the float64 run, as text and as JSON (docs/check-equal.schema.json).
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/verify/truth.h"

namespace vmamba {

// One line each: which side is nearer, and whether a side exceeds the tolerance of its dtype.
std::vector<std::string> truth_verdict(const TruthReport& report);
std::string truth_text(const TruthReport& report, bool all);
nlohmann::ordered_json truth_json(const TruthReport& report);

}  // namespace vmamba
