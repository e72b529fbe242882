// check-equal's findings as one self-contained page: verdict, what ran, error by layer, histogram, heat map,
// tables.
#pragma once
#include <string>
#include <vector>

#include "lib/verify/check_equal.h"
#include "lib/verify/provenance.h"

namespace vmamba {

// Of `cases` it shows the first that differs, else the last; the verdict is of all. Their diffs should hold maps
// (CheckOptions::maps).
std::string html_report(const std::vector<NamedResult>& cases, const Provenance& provenance);

}  // namespace vmamba
