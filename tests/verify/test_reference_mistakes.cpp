// What people get wrong when they save a model's tensors, each made here on purpose: --reference says which it was.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/half.h"
#include "lib/config/config.h"
#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"
#include "lib/verify/check_equal.h"
#include "tests/testing.h"

using namespace vmamba;
using vmamba::testing::CliResult;
using vmamba::testing::contains;
using vmamba::testing::data;
using vmamba::testing::run_cli;
using vmamba::testing::TemporaryDirectory;

namespace {

CliResult check_equal(std::vector<std::string> more) {
  const std::vector<std::string> with{"check-equal",
                                      "--config",
                                      data("models/s1_ln2d/config.json"),
                                      "--weights",
                                      data("models/s1_ln2d/weights.safetensors"),
                                      "--device",
                                      "cpu",
                                      "-q"};
  more.insert(more.begin(), with.begin(), with.end());
  return run_cli(more);
}

// Saved by the program itself, of three images.
StateDict right() {
  const TemporaryDirectory folder;
  const CliResult run =
      check_equal({"--save-taps", folder / "r.safetensors", "--batch-size", "3", "--seed", "5"});
  REQUIRE_MESSAGE(run.exit_code == 0, run.err);
  return read_safetensors(folder / "r.safetensors");
}

template <class Change>
StateDict changed(const StateDict& from, Change change) {
  StateDict result;
  for (const auto& [name, tensor] : from.tensors) {
    HostTensor values = tensor.to_float32();
    if (change(name, values)) result.add(name, values);
  }
  return result;
}

CliResult against(const StateDict& reference, const std::vector<std::string>& more = {}) {
  const TemporaryDirectory folder;
  write_safetensors(folder / "r.safetensors", reference);
  std::vector<std::string> arguments{"--reference", folder / "r.safetensors"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return check_equal(arguments);
}

void check_says(const CliResult& run, int exit_code, const std::string& words) {
  CHECK_MESSAGE(run.exit_code == exit_code, run.out << run.err);
  CHECK_MESSAGE(run.out.find(words) != std::string::npos, "wanted \"" << words << "\" in\n" << run.out);
}

bool is_logits_or_input(const std::string& name, HostTensor&) {
  return name == "logits" || name == "input";
}

void softmax(HostTensor& logits) {
  const int64_t classes = logits.dims[1];
  for (int64_t row = 0; row < logits.dims[0]; ++row) {
    double sum = 0;
    for (int64_t i = 0; i < classes; ++i) sum += std::exp(logits.values[row * classes + i]);
    for (int64_t i = 0; i < classes; ++i)
      logits.values[row * classes + i] = static_cast<float>(std::exp(logits.values[row * classes + i]) / sum);
  }
}

void exchange_red_and_blue(HostTensor& input) {
  const int64_t pixels = input.dims[2] * input.dims[3];
  for (int64_t i = 0; i < input.dims[0]; ++i)
    std::swap_ranges(input.values.begin() + 3 * i * pixels, input.values.begin() + (3 * i + 1) * pixels,
                     input.values.begin() + (3 * i + 2) * pixels);
}

// The input of `from` as it was before it was normalised.
void undo_normalisation(HostTensor& input, float scale) {
  const PreprocessConfig p;
  const int64_t pixels = input.dims[2] * input.dims[3];
  for (int64_t i = 0; i < input.elements(); ++i) {
    const int64_t c = i / pixels % 3;
    input.values[i] = (input.values[i] * p.std[c] + p.mean[c]) * scale;
  }
}

}  // namespace

TEST_CASE("logits alone: compared, and that nothing can be localised") {
  const StateDict logits = changed(right(), is_logits_or_input);
  check_says(against(logits), 0, "only logits were given; nothing can be localised: dump taps");
  const StateDict wrong = changed(logits, [](const std::string& name, HostTensor& values) {
    if (name == "logits") values.values[3] += 1;
    return true;
  });
  const CliResult run = against(wrong);
  check_says(run, 1, "only logits were given; nothing can be localised: dump taps");
  // Saved in bfloat16 they have one rounding more, and no more.
  for (const float factor : {1.0f, 1.1f}) {
    const StateDict saved = changed(logits, [&](const std::string& name, HostTensor& values) {
      if (name == "logits")
        for (float& value : values.values) value = round_to(DType::bfloat16, value * factor);
      return true;
    });
    CHECK(against(saved).exit_code == (factor == 1 ? 0 : 1));
  }
  for (const char* accusation : {"cause:", "compare ", "by itself, from"})
    CHECK_MESSAGE(run.out.find(accusation) == std::string::npos, run.out);
}

TEST_CASE("a reference without logits says what was not compared") {
  const CliResult found = against(changed(right(), [](const std::string& name, HostTensor&) {
    return name == "input" || name == "patch_embed";
  }));
  CHECK(found.exit_code == 0);
  CHECK(contains(found.out,
                 "note: the reference has no logits: nothing of the model behind patch_embed was compared"));
}

TEST_CASE("an input by another preprocessing differs from the reference's, in 16 bits too") {
  const TemporaryDirectory folder;
  std::string config = read_file(data("models/s1_ln2d/config.json"));
  config.insert(config.rfind('}'), R"(, "preprocess": {"std": [0.2312, 0.224, 0.225]})");
  write_file(folder / "c.json", config);
  const std::string image = data("chelsea.png"), taps = folder / "t.safetensors";
  REQUIRE(check_equal({"--save-taps", taps, "--all", "--images", image, "--dtype", "float32"}).exit_code ==
          0);
  CHECK(check_equal({"--reference", taps, "--images", image, "--dtype", "bfloat16"}).exit_code == 0);
  const CliResult other = run_cli({"check-equal", "-q", "--device", "cpu", "--config", folder / "c.json",
                                   "--weights", data("models/s1_ln2d/weights.safetensors"), "--reference",
                                   taps, "--images", image, "--dtype", "bfloat16"});
  CHECK(other.exit_code == 1);
  CHECK(contains(other.out, "input"));
}

TEST_CASE("a single pixel has no layout, and tells no element of a weight") {
  const TemporaryDirectory folder;
  StateDict small;
  small.add("input", noise({1, 3, 32, 32}, 1));
  write_safetensors(folder / "input.safetensors", small);
  REQUIRE(check_equal({"--save-taps", folder / "r.safetensors", "--all", "--input-tensor",
                       folder / "input.safetensors", "--dtype", "float32"})
              .exit_code == 0);
  const CliResult found = against(
      changed(read_safetensors(folder / "r.safetensors"), [](const std::string& name, HostTensor& values) {
        if (name == "layers.3.blocks.0.mlp.fc2") values.values[7] += 0.1f;
        return true;
      }));
  CHECK(found.exit_code == 1);
  CHECK_FALSE(contains(found.out, "laid out"));
  CHECK_FALSE(contains(found.out, "different weights"));
  CHECK(contains(found.out,
                 "layers.3.blocks.0.mlp.fc2 differs by itself, from the same input, in channel 7 alone"));
}

TEST_CASE("probabilities, and rows in another order") {
  const StateDict reference = right();
  const auto probabilities = [](const std::string& name, HostTensor& values) {
    if (name == "logits") softmax(values);
    return true;
  };
  const StateDict softmaxed = changed(reference, probabilities);
  const CliResult run = against(softmaxed);
  check_says(run, 1, "cause: a's logits are probabilities, the softmax of b's logits");
  CHECK(run.out.find("compare ") == std::string::npos);

  const StateDict rounded =
      changed(changed(softmaxed, is_logits_or_input), [](const std::string& name, HostTensor& values) {
        if (name == "logits")
          for (float& value : values.values) value = round_to(DType::float16, value);
        return true;
      });
  check_says(against(rounded), 1, "probabilities, the softmax of b's logits");
  check_says(against(rounded), 1, "every value of the reference is a float16 number");

  const StateDict logarithms = changed(softmaxed, [](const std::string& name, HostTensor& values) {
    if (name == "logits")
      for (float& value : values.values) value = std::log(value);
    return true;
  });
  check_says(against(logarithms), 1, "log_softmax of b's logits");

  const auto rotate = [](const std::string& name, HostTensor& values) {
    if (name == "logits")
      std::rotate(values.values.begin(), values.values.begin() + values.dims[1], values.values.end());
    return true;
  };
  check_says(against(changed(reference, rotate)), 1,
             "rows are in another order than its input: its logits 0, 1, … are of images 1, 2, 0");
  check_says(against(changed(softmaxed, rotate)), 1, "of images 1, 2, 0; and a's logits are probabilities");
}

TEST_CASE("an input that is not the one the model was given") {
  const StateDict reference = changed(right(), is_logits_or_input);
  const auto with_input = [&](auto&& change) {
    return against(changed(reference, [&](const std::string& name, HostTensor& values) {
      if (name == "input") change(values);
      return true;
    }));
  };
  check_says(with_input([](HostTensor& input) { undo_normalisation(input, 1); }), 1,
             "before it was normalised: its values are 0 to 1: with that undone the logits agree");
  check_says(with_input([](HostTensor& input) { undo_normalisation(input, 255); }), 1,
             "before it was normalised: its values are 0 to 255");
  check_says(with_input(exchange_red_and_blue), 1,
             "saved blue, green, red; its model ran on red, green, blue");
  check_says(with_input([](HostTensor& input) {
               undo_normalisation(input, 255);
               exchange_red_and_blue(input);
             }),
             1, "(0 to 255), blue, green, red");
}

TEST_CASE("taps laid out otherwise") {
  const auto permuted = [](const std::string& name, HostTensor& values) {
    if (values.dims.size() != 4 || name == "input") return true;
    const int64_t B = values.dims[0], P = values.dims[1] * values.dims[2], C = values.dims[3];
    const HostTensor from = values;
    values.dims = {B, C, from.dims[1], from.dims[2]};
    for (int64_t b = 0; b < B; ++b)
      for (int64_t p = 0; p < P; ++p)
        for (int64_t c = 0; c < C; ++c) values.values[(b * C + c) * P + p] = from.values[(b * P + p) * C + c];
    return true;
  };
  const StateDict reference = right();
  const CliResult nchw = against(changed(reference, permuted));
  check_says(nchw, 1, "a's taps are laid out (B, C, H, W): permuted to (B, H, W, C) ");
  CHECK(nchw.out.find("compare ") == std::string::npos);
  // One value that is wrong besides is not hidden.
  const CliResult wrong =
      against(changed(changed(reference, permuted), [](const std::string& name, HostTensor& values) {
        if (name == "logits") values.values[0] += 1;
        return true;
      }));
  check_says(wrong, 1, "compare classifier.");
  check_says(
      against(changed(reference,
                      [](const std::string& name, HostTensor& values) {
                        if (values.dims.size() == 4 && name != "input")
                          values.dims = {values.dims[0], values.dims[1] * values.dims[2], values.dims[3]};
                        return true;
                      })),
      1, "a's taps are laid out (B, H*W, C)");
}

TEST_CASE("a reference that was rounded to 16 bits: its rounding is allowed for, and no more") {
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    const auto rounded = [&](const std::string& name, HostTensor& values) {
      if (name != "input")
        for (float& value : values.values) value = round_to(dtype, value);
      return true;
    };
    const StateDict reference = changed(right(), rounded);
    check_says(against(reference), 0,
               fmt::format("every value of the reference is a {} number", to_string(dtype)));
    check_says(against(converted(reference, dtype), {"--dtype", std::string(to_string(dtype))}), 0,
               "equal: ");
    check_says(against(converted(right(), dtype)), 0, "equal: ");  // its input too
    const StateDict wrong = changed(reference, [&](const std::string& name, HostTensor& values) {
      if (name == "logits")
        for (float& value : values.values) value = round_to(dtype, value * 1.05f);
      return true;
    });
    check_says(against(wrong), 1, "different: ");
  }
  CHECK(against(right()).out.find("every value of the reference") == std::string::npos);
}
