// The report of check-equal --format json.
#pragma once
#include <nlohmann/json.hpp>

#include "tests/testing.h"

namespace vmamba::testing {

// What stands on stdout; doctest is told where docs/check-equal.schema.json refuses it.
nlohmann::json valid_report(const CliResult& run);

}  // namespace vmamba::testing
