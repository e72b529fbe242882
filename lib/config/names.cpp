// Construction and parsing of step, tap and parameter names.
#include "lib/config/names.h"

#include <fmt/format.h>

#include <charconv>

namespace vmamba {
namespace {

constexpr std::string_view stage_word = "layers.", block_word = "blocks.", downsample_word = "downsample",
                           direction_word = "scan.k", out_norm_word = "outnorm";

// Removes "WORD" and a number of at most four digits from the front of `name`; the rest must be empty or begin with
// a dot.
std::optional<size_t> take_number(std::string_view& name, std::string_view word) {
  if (!name.starts_with(word)) return std::nullopt;
  const char *begin = name.data() + word.size(), *end = name.data() + name.size();
  unsigned number = 0;
  const auto [rest, error] = std::from_chars(begin, end, number);
  if (error != std::errc() || rest - begin > 4 || (rest != end && *rest != '.')) return std::nullopt;
  name.remove_prefix(static_cast<size_t>(rest - name.data()));
  return number;
}

bool skip_dot(std::string_view& name) {
  if (!name.starts_with('.')) return false;
  name.remove_prefix(1);
  return true;
}

}  // namespace

std::string stage_name(int64_t stage) {
  return fmt::format("{}{}", stage_word, stage);
}
std::string downsample_name(int64_t stage) {
  return fmt::format("{}.{}", stage_name(stage), downsample_word);
}
std::string block_name(int64_t stage, int64_t block) {
  return fmt::format("{}.{}{}", stage_name(stage), block_word, block);
}
std::string out_norm_name(int64_t stage) {
  return fmt::format("{}{}", out_norm_word, stage);
}
std::string direction_name(int64_t k) {
  return fmt::format("{}{}", direction_word, k);
}

std::optional<NameInBlock> in_block(std::string_view name) {
  std::string_view left = name;
  const auto stage = take_number(left, stage_word);
  if (!stage || !skip_dot(left)) return std::nullopt;
  const auto block = take_number(left, block_word);
  if (!block) return std::nullopt;
  const std::string_view whole = name.substr(0, name.size() - left.size());
  skip_dot(left);
  return NameInBlock{*stage, *block, whole, left};
}

std::string_view block_of(std::string_view name) {
  const auto place = in_block(name);
  return place ? place->block_name : name;
}

std::string_view kind_of(std::string_view name) {
  if (const auto place = in_block(name); place && !place->rest.empty()) return place->rest;
  std::string_view rest = name;
  return take_number(rest, stage_word) && skip_dot(rest) ? rest : name;
}

std::string_view part_of(std::string_view parameter) {
  std::string_view rest = parameter;
  if (!take_number(rest, stage_word)) {
    const std::string_view first = parameter.substr(0, parameter.find('.'));
    return first == "pos_embed" ? "patch_embed" : first;
  }
  const size_t stage = parameter.size() - rest.size();
  const bool downsample = skip_dot(rest) && rest.starts_with(downsample_word);
  return parameter.substr(0, stage + (downsample ? 1 + downsample_word.size() : 0));
}

std::string step_of(std::string_view tap) {
  if (const auto place = in_block(tap)) {
    const std::string_view first = place->rest.substr(0, place->rest.find('.'));
    const std::string_view step = first == "norm" ? "op" : first == "norm2" ? "mlp" : first;
    return step.empty() ? "" : fmt::format("{}.{}", place->block_name, step);
  }
  if (tap == "logits") return "classifier";
  const std::string_view part = part_of(tap);
  const bool in_classifier = part == "classifier" && tap != part;
  return tap == "patch_embed" || in_classifier || part.ends_with(downsample_word) ? std::string(part) : "";
}

std::optional<size_t> out_norm_stage(std::string_view name) {
  return take_number(name, out_norm_word);
}

std::string_view direction_of(std::string_view tap) {
  const size_t dot = tap.rfind('.'), begin = tap.rfind('.', dot - 1) + 1;
  return dot != std::string_view::npos && tap.substr(begin).starts_with(direction_word) ? tap.substr(dot + 1)
                                                                                        : "";
}

}  // namespace vmamba
