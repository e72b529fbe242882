// Reports of label agreement over a data set or two results files: text and JSON (docs/check-equal.schema.json).
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "lib/verify/agreement.h"
#include "lib/verify/saved_results.h"

namespace vmamba {

// One line: the share of agreement, its interval and, with --min-agreement, the verdict.
std::string agreement_summary(const LabelAgreement& labels);
// The lines below it: flips and accuracies.
std::string text_report(const LabelAgreement& labels);
std::string text_report(const SavedComparison& comparison);

nlohmann::ordered_json json_report(const LabelAgreement& labels);
nlohmann::ordered_json json_report(const SavedComparison& comparison);

}  // namespace vmamba
