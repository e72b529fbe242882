// check-equal's result as one self-contained HTML page: verdict, runs, error by layer, histogram, heat map, tables.
#pragma once
#include <string>
#include <vector>

#include "lib/verify/check_equal.h"
#include "lib/verify/provenance.h"

namespace vmamba {

// Shows the first case that differs, otherwise the last; the verdict covers all. The diffs should hold maps
// (CheckOptions::maps).
std::string html_report(const std::vector<NamedResult>& cases, const Provenance& provenance);

}  // namespace vmamba
