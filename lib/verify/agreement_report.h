// What a data set and saved answers say of two models, as text and as JSON (docs/check-equal.schema.json).
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "lib/verify/agreement.h"
#include "lib/verify/saved_results.h"

namespace vmamba {

// One line: the share that agrees, with its interval, and the verdict where a minimum is asked for.
std::string agreement_summary(const LabelAgreement& labels);
// What stands below that line: flips and accuracies.
std::string text_report(const LabelAgreement& labels);
std::string text_report(const SavedComparison& comparison);

nlohmann::ordered_json json_report(const LabelAgreement& labels);
nlohmann::ordered_json json_report(const SavedComparison& comparison);

}  // namespace vmamba
