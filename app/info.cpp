// info: the structure and the cost of a model, and whether given weights fit it.
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/image_size.h"
#include "app/model_options.h"
#include "app/option_values.h"
#include "kernels/error.h"
#include "lib/model/summary.h"
#include "lib/model/weights.h"
#include "lib/support/json.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  ModelOptions model;
  int64_t batch_size = 1;
  std::vector<std::string> image_size;  // "224" or "384x640", or 384 and 640; empty: the config's size
  std::string format = "text";
};

struct Facts {
  ModelFiles files;
  Config config;
  RunChoice choice;
  int64_t batch = 1, height = 0, width = 0;
  ModelSummary summary;
  std::optional<WeightsReport> weights;
  size_t tensors = 0;  // number of tensors in the weights file
};

Facts gather(const Arguments& arguments) {
  Facts facts;
  facts.files = find_model(arguments.model);
  facts.config = load_model_config(arguments.model, facts.files);
  facts.choice = choose_run(arguments.model);
  facts.batch = arguments.batch_size;
  const InputSize size = arguments.image_size.empty()
                             ? InputSize{facts.config.imgsize, facts.config.imgsize}
                             : parse_image_size(fmt::format("{}", fmt::join(arguments.image_size, "x")));
  facts.height = size.height;
  facts.width = size.width;
  facts.summary =
      summarize(facts.config, storage_dtype(facts.choice.precision), facts.batch, facts.height, facts.width);
  if (!facts.files.weights.empty()) {
    StateDict weights = read_weights(facts.files);
    if (arguments.format == "taps") adopt_backbone(facts.config, weights);
    facts.weights = check_weights(facts.config, weights);
    facts.tensors = weights.tensors.size();
  }
  return facts;
}

std::string giga(uint64_t count) {
  return fmt::format("{:.3f}", static_cast<double>(count) / 1e9);
}
std::string mebibytes(size_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

std::string with_commas(int64_t number) {
  const std::string digits = std::to_string(number);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string text(const Facts& facts) {
  const Config& config = facts.config;
  const ModelSummary& summary = facts.summary;
  std::string out;
  const auto line = [&](std::string_view name, const std::string& value) {
    out += fmt::format("{:<24}{}\n", name, value);
  };
  line("Model", config.name.empty() ? "(no name)" : config.name);
  line("Config", facts.files.config_name());
  line("Forward type", config.forward_type);
  line("Forward core version", std::string(to_string(config.forward_core_version)));
  line("Selective scan backend", std::string(to_string(config.selective_scan_backend)));
  line("Norm layer", std::string(to_string(config.norm_layer)));
  line("Device, dtype",
       fmt::format("{}, {}", to_string(facts.choice.device), to_string(facts.choice.precision)));
  line("Image",
       fmt::format("{} x {} x {} (channels x height x width)", config.in_chans, facts.height, facts.width));
  line("Classes", std::to_string(config.num_classes));
  line("Parameters", fmt::format("{} ({:.1f} M)", with_commas(summary.parameters),
                                 static_cast<double>(summary.parameters) / 1e6));
  line("GMACs",
       fmt::format("{} an image, counted as the published figures are", giga(summary.published_count)));
  line("Multiply-accumulates",
       fmt::format("{} G an image, those that run", giga(summary.multiply_accumulates)));
  line("Memory", fmt::format("{} for a batch of {}: weights {}, activations {}, input and logits {}",
                             mebibytes(summary.total_bytes()), facts.batch, mebibytes(summary.weight_bytes),
                             mebibytes(summary.activation_bytes), mebibytes(summary.input_bytes)));
  out += fmt::format("\n{:<21}{:>11}{:>10}{:>8}{:>9}{:>9}{:>14}{:>9}\n", "Stage", "map", "channels", "blocks",
                     "d_inner", "dt_rank", "parameters", "GMACs");
  for (const StageSummary& stage : summary.stages) {
    const auto count = [](int number) { return number > 0 ? std::to_string(number) : std::string("-"); };
    out += fmt::format("{:<21}{:>11}{:>10}{:>8}{:>9}{:>9}{:>14}{:>9}\n", stage.name,
                       fmt::format("{}x{}", stage.height, stage.width), stage.channels, count(stage.blocks),
                       count(stage.d_inner), count(stage.dt_rank), with_commas(stage.parameters),
                       giga(stage.published_count));
  }
  if (!facts.weights) return out;
  if (facts.files.config.empty()) out += "\nConfig read off the weights:\n" + facts.files.inferred;

  const WeightsReport& report = *facts.weights;
  out += fmt::format("\nWeights {}: {} tensors, ", facts.files.weights.string(), facts.tensors);
  if (report.ok()) return out + "all that the config wants and no other\n";
  if (report.backbone) return out + fmt::format("{}\n", report.likely_cause);
  out += fmt::format("{} missing, {} unexpected, {} misshapen\n", report.missing.size(),
                     report.unexpected.size(), report.misshapen.size());
  if (!report.likely_cause.empty())
    out += fmt::format("likely cause: {}\n", printable(report.likely_cause, 400));
  const auto quoted = [](const std::string& name) { return fmt::format("\"{}\"", printable(name, 200)); };
  for (const std::string& name : report.missing) out += fmt::format("missing     {}\n", quoted(name));
  for (const std::string& name : report.unexpected) out += fmt::format("unexpected  {}\n", quoted(name));
  for (const auto& [name, wanted, got] : report.misshapen) {
    out += fmt::format("misshapen   {}: wanted {}, got {}\n", quoted(name), shape_string(wanted),
                       shape_string(got));
  }
  return out;
}

Json json(const Facts& facts) {
  const Config& config = facts.config;
  const ModelSummary& summary = facts.summary;
  Json out{{"name", config.name},
           {"config", facts.files.config.empty() ? Json(nullptr) : Json(facts.files.config.string())},
           {"forward_type", config.forward_type},
           {"forward_core_version", nullptr},
           {"selective_scan_backend", nullptr},
           {"norm_layer", to_string(config.norm_layer)},
           {"device", to_string(facts.choice.device)},
           {"dtype", to_string(facts.choice.precision)},
           {"image", {{"channels", config.in_chans}, {"height", facts.height}, {"width", facts.width}}},
           {"num_classes", config.num_classes},
           {"parameters", summary.parameters},
           {"gmacs", static_cast<double>(summary.published_count) / 1e9},
           {"multiply_accumulates", summary.multiply_accumulates},
           {"memory",
            {{"batch_size", facts.batch},
             {"weights", summary.weight_bytes},
             {"activations", summary.activation_bytes},
             {"input_and_logits", summary.input_bytes},
             {"total", summary.total_bytes()}}}};
  if (config.forward_core_version != ForwardCoreVersion::unset) {
    out["forward_core_version"] = to_string(config.forward_core_version);
  }
  if (config.selective_scan_backend != ScanBackend::automatic) {
    out["selective_scan_backend"] = to_string(config.selective_scan_backend);
  }
  out["stages"] = Json::array();
  for (const StageSummary& stage : summary.stages) {
    Json row{
        {"name", stage.name}, {"height", stage.height}, {"width", stage.width}, {"channels", stage.channels}};
    if (stage.blocks > 0) row["blocks"] = stage.blocks;
    if (stage.d_inner > 0) {
      row["d_inner"] = stage.d_inner;
      row["dt_rank"] = stage.dt_rank;
    }
    row["parameters"] = stage.parameters;
    row["gmacs"] = static_cast<double>(stage.published_count) / 1e9;
    row["multiply_accumulates"] = stage.multiply_accumulates;
    out["stages"].push_back(std::move(row));
  }
  if (facts.weights) {
    const WeightsReport& report = *facts.weights;
    Json misshapen = Json::array();
    for (const auto& [name, wanted, got] : report.misshapen) {
      misshapen.push_back({{"name", name}, {"wanted", wanted}, {"got", got}});
    }
    if (facts.files.config.empty()) out["inferred_config"] = Json::parse(facts.files.inferred);
    out["weights"] = {{"file", facts.files.weights.string()},
                      {"tensors", facts.tensors},
                      {"fits", report.ok()},
                      {"backbone", report.backbone},
                      {"missing", report.missing},
                      {"unexpected", report.unexpected},
                      {"misshapen", misshapen},
                      {"likely_cause", report.likely_cause}};
  }
  return out;
}

int run(const Arguments& arguments) {
  const Facts facts = gather(arguments);
  if (arguments.format == "taps") {
    for (const TapShape& tap : tap_shapes(facts.config, facts.height, facts.width))
      fmt::print("{} {}\n", tap.name, fmt::join(std::span(tap.dims).subspan(1), "x"));
  } else if (arguments.format == "config") {
    fmt::print("{}", facts.files.config_text());
  } else if (arguments.format == "json") {
    fmt::print("{}\n", dump_json(json(facts), 2));
  } else {
    fmt::print("{}", printable_lines(text(facts)));
  }
  return !facts.weights || facts.weights->ok() || facts.weights->backbone ? 0 : 1;
}

}  // namespace

Command add_info(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "info",
      "Show parameters, GMACs, stages and memory of a model; with --weights, which tensors do not fit");
  auto arguments = std::make_shared<Arguments>();
  add_model_options(*command, arguments->model, {.threads = false});
  command->add_option("--batch-size", arguments->batch_size, "Batch size of the memory figures")
      ->type_name("N")
      ->check(whole_number(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command
      ->add_option("--image-size", arguments->image_size,
                   "SIDE or HEIGHTxWIDTH in pixels (default: the config's imgsize)")
      ->type_name("S")
      ->expected(1, 2);
  command
      ->add_option("--format", arguments->format,
                   "text, json, config (only the config) or taps (names and shapes)")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"text", "json", "config", "taps"}).description(""))
      ->capture_default_str();
  return {command, [arguments] { return run(*arguments); }};
}

}  // namespace vmamba
