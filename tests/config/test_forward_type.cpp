// The table of forward types: bases, postfixes in any order, what is refused and what is suggested.
#include <doctest/doctest.h>

#include "kernels/error.h"
#include "lib/config/forward_type.h"
#include "lib/config/forward_type_spelling.h"
#include "tests/testing.h"

using namespace vmamba;
using testing::contains;

namespace {

std::string error_of(std::string_view forward_type) {
  try {
    parse_forward_type(forward_type, "here");
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("every base alone is understood") {
  for (const std::string_view base : forward_type_bases()) {
    const ForwardSpec spec = parse_forward_type(base, "here");
    CHECK(spec.base == base);
    CHECK(spec.gated);
    CHECK(spec.gate_act);
    CHECK(spec.out_norm == OutNorm::layer_norm);
  }
  CHECK(forward_type_bases().size() == 13);
}

TEST_CASE("what the bases mean") {
  CHECK(parse_forward_type("v0", "").old_block);
  CHECK(parse_forward_type("v0seq", "").precision == CorePrecision::float32_block);
  CHECK(parse_forward_type("v03", "").precision == CorePrecision::float32_core);
  CHECK(parse_forward_type("v2", "").precision == CorePrecision::float32_core);
  CHECK(parse_forward_type("v05", "").precision == CorePrecision::storage_in);
  CHECK(parse_forward_type("v051d", "").order == ScanOrder::unidi);
  CHECK(parse_forward_type("v052d", "").order == ScanOrder::bidi);
  CHECK(parse_forward_type("v052dc", "").core == Core::cascade);
  CHECK(parse_forward_type("m0_noz", "").core == Core::mamba2);
  CHECK_FALSE(parse_forward_type("v05", "").old_block);
}

TEST_CASE("postfixes are understood in every order, on every base that takes them") {
  const auto postfixes = forward_type_postfixes();
  CHECK(postfixes.size() == 9);
  for (const std::string_view base : forward_type_bases()) {
    if (base.starts_with("v0") && parse_forward_type(base, "").old_block) continue;
    for (const std::string_view first : {"_noz", "_no32", "_nozact", "_oact"}) {
      for (const std::string_view second :
           {"_onnone", "_ondwconv3", "_oncnorm", "_onsoftmax", "_onsigmoid"}) {
        const auto a = parse_forward_type(fmt::format("{}{}{}", base, first, second), "here");
        const auto b = parse_forward_type(fmt::format("{}{}{}", base, second, first), "here");
        CHECK(a.out_norm == b.out_norm);
        CHECK(a.out_norm != OutNorm::layer_norm);
        CHECK(a.gated == b.gated);
        CHECK(a.gated == (first != "_noz"));
        CHECK(a.no32 == (first == "_no32"));
        CHECK(b.out_act == (first == "_oact"));
        CHECK(b.gate_act == (first != "_nozact"));
      }
    }
  }
  const ForwardSpec all = parse_forward_type("v052dc_onsigmoid_oact_noz_no32", "here");
  CHECK(all.base == "v052dc");
  CHECK(all.out_norm == OutNorm::sigmoid);
  CHECK(all.out_act);
  CHECK(all.no32);
  CHECK_FALSE(all.gated);
}

TEST_CASE("a slip is answered with what was meant and with all that is known") {
  CHECK(contains(error_of("v3noz"), "did you mean \"v3_noz\"?"));
  CHECK(contains(error_of("v3noz"), "known: v0, v0seq, v01"));
  CHECK(contains(error_of("v3noz"), "_onsigmoid"));
  CHECK(contains(error_of("V05_NOZ"), "did you mean \"v05_noz\"?"));
  CHECK(contains(error_of("v0_seq"), "did you mean \"v0seq\"?"));
  CHECK(contains(error_of("v052dcnoz"), "did you mean \"v052dc_noz\"?"));
  CHECK(contains(error_of("v05nozact"), "did you mean \"v05_nozact\"?"));
  CHECK(contains(error_of("v05_nozz"), "did you mean \"v05_noz\"?"));
  CHECK(contains(error_of("v05_oact_nozz"), "did you mean \"v05_noz_oact\"?"));
  CHECK(contains(error_of("v5_noz"), "did you mean \"v05_noz\"?"));
  CHECK(contains(error_of("v05__noz"), "did you mean \"v05_noz\"?"));
  CHECK(contains(error_of("v05_noz_"), "did you mean \"v05_noz\"?"));
  CHECK(contains(error_of(""), "unknown forward_type \"\""));
  CHECK(contains(error_of("\x01\xff"), "\\x01\\xff"));
  CHECK(error_of(std::string(100000, 'v')).size() < 1000);
}

TEST_CASE("types that cannot run are refused by name") {
  for (const char* type : {"xv1a", "xv2aact", "xv"}) {
    CHECK(contains(error_of(type), "xv family"));
    CHECK(contains(error_of(type), "known: v0, v0seq"));
  }
  CHECK(contains(error_of("v0_noz"), "v0 takes no postfix"));
  CHECK(contains(error_of("v05_noz_noz"), "_noz stands twice"));
  CHECK(contains(error_of("v05_onnone_oncnorm"), "keep one"));
}

TEST_CASE("spelling finds lost underscores and capitals only") {
  CHECK(respelled_forward_type("v3noz") == "v3_noz");
  CHECK(respelled_forward_type("v0_seq") == "v0seq");
  CHECK(respelled_forward_type("V052DC_noz") == "v052dc_noz");
  CHECK(respelled_forward_type("v05nozactoact") == "v05_nozact_oact");
  CHECK(respelled_forward_type("v05oactnozonnone") == "v05_onnone_noz_oact");
  CHECK(respelled_forward_type("v1") == "");
  CHECK(respelled_forward_type("v0noz") == "");
  CHECK(respelled_forward_type("banana") == "");
  CHECK(spell_forward_type("v9noz", {"v9"})->base == "v9");
  CHECK(spell_forward_type("v2softnoz", {}, {"soft"})->postfixes == std::vector<std::string>{"soft", "_noz"});
}
