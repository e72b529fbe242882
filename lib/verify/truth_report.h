// What the errors against the truth say, as text and as JSON (docs/check-equal.schema.json).
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/verify/truth.h"

namespace vmamba {

// Which side is nearer, and whether either is outside what its dtype can do: one line each.
std::vector<std::string> truth_verdict(const TruthReport& report);
std::string truth_text(const TruthReport& report, bool all);
nlohmann::ordered_json truth_json(const TruthReport& report);

}  // namespace vmamba
