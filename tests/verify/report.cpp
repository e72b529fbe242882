#include "tests/verify/report.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validation_results.hpp>
#include <valijson/validator.hpp>

#include "lib/support/files.h"

namespace vmamba::testing {

using nlohmann::json;

json valid_report(const CliResult& run) {
  REQUIRE_MESSAGE(!run.out.empty(), run.err);
  json parsed = json::parse(run.out);
  static const valijson::Schema* schema = [] {
    auto* made = new valijson::Schema;
    const json text = json::parse(read_file(data("../../docs/check-equal.schema.json")));
    valijson::SchemaParser(valijson::SchemaParser::kDraft7)
        .populateSchema(valijson::adapters::NlohmannJsonAdapter(text), *made);
    return made;
  }();
  valijson::ValidationResults results;
  valijson::Validator validator;
  const bool valid = validator.validate(*schema, valijson::adapters::NlohmannJsonAdapter(parsed), &results);
  std::string problems;
  for (valijson::ValidationResults::Error error; results.popError(error);)
    problems += fmt::format("{}: {}\n", fmt::join(error.context, ""), error.description);
  CHECK_MESSAGE(valid, problems);
  return parsed;
}

}  // namespace vmamba::testing
