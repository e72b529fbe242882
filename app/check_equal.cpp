// check-equal: are two runs of a model the same function?
#include <fmt/chrono.h>
#include <spdlog/spdlog.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/model_options.h"
#include "build_info.h"
#include "kernels/error.h"
#include "lib/images/image_source.h"
#include "lib/images/preprocess.h"
#include "lib/model/init.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/verify/check_equal.h"
#include "lib/verify/check_report.h"
#include "lib/verify/find_precision.h"
#include "lib/verify/html_report.h"
#include "lib/verify/matrix.h"
#include "lib/verify/stress.h"

namespace vmamba {
namespace {

struct Options {
  ModelOptions model;
  std::string a, b, reference, input_tensor, format = "text";
  std::vector<std::string> images;
  std::string save_taps, output, html;
  std::optional<uint64_t> seed;
  bool seed_weights = false;  // weights that are named count; without any, the seed initialises them
  CheckOptions check;
  bool all = false, matrix = false, stress = false, find_precision = false, init_order = false;
  int repeat = 0;
};

// The model options of one side: the command's own, changed by "K=V,…".
struct SideOptions {
  std::string text;
  ModelOptions model;
  std::string forward_type;
};

SideOptions side_options(const ModelOptions& common, const std::string& option, const std::string& text) {
  SideOptions side{text, common, {}};
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string pair = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0)
      fail_input("{} {}: \"{}\" is not KEY=VALUE", option, text, pair);
    const std::string key = pair.substr(0, equals), value = pair.substr(equals + 1);
    if (key == "forward_core_version")
      side.model.forward_core_version = value;
    else if (key == "selective_scan_backend")
      side.model.selective_scan_backend = value;
    else if (key == "device")
      side.model.device = value;
    else if (key == "dtype")
      side.model.dtype = value;
    else if (key == "forward_type")
      side.forward_type = value;
    else if (key == "config")
      side.model.config = value;
    else if (key == "weights")
      side.model.weights = value;
    else if (key == "threads") {
      char* rest = nullptr;
      const long threads = std::strtol(value.c_str(), &rest, 10);
      if (value.empty() || *rest || threads < 0 || threads > 4096)
        fail_input("{} threads={}: not a number from 0 to 4096", option, value);
      side.model.threads = static_cast<int>(threads);
    } else {
      fail_input(
          "{} {}: unknown key \"{}\"; the keys are forward_core_version, selective_scan_backend, device, "
          "dtype, "
          "forward_type, config, weights, threads",
          option, text, key);
    }
  }
  return side;
}

// One side ready to run. `other` lends its weights if they are the same.
Side make_side(const Options& options, const SideOptions& chosen, const Side* other,
               const SideOptions* other_chosen) {
  Side side;
  side.given = chosen.text;
  ModelFiles files = find_model(chosen.model);
  side.config = load_model_config(chosen.model, files);
  if (!chosen.forward_type.empty()) {
    // Through the config's own text, so that everything a config is checked for is checked of this one too.
    const std::string where = files.config_name() + " with forward_type " + chosen.forward_type;
    const std::string text = with_member(files.config_text(), files.config_name(), "forward_type",
                                         nlohmann::json(chosen.forward_type).dump());
    const Config changed = parse_config(text, where);
    side.config.forward_type = changed.forward_type;
    side.config.forward = changed.forward;
  }
  side.choice = choose_run(chosen.model);
  const bool same_model = other && other_chosen->model.config == chosen.model.config &&
                          other_chosen->model.weights == chosen.model.weights &&
                          (!options.seed_weights || other_chosen->forward_type == chosen.forward_type);
  if (same_model) {
    side.weights = other->weights;
  } else if (options.seed_weights) {
    side.weights = std::make_shared<StateDict>(init_weights(side.config, *options.seed));
  } else {
    if (files.weights.empty())
      fail_input(
          "{}: no weights for this config: give --weights FILE{}", files.config.string(),
          options.seed
              ? " or weights=FILE for each of a and b; --seed initialises them only where none are named"
              : ", or --seed 0, which initialises them");
    side.weights = std::make_shared<StateDict>(read_weights(files));
  }
  return side;
}

HostTensor input_of(const StateDict& file) {
  HostTensor input = file.at("input").to_float32();
  if (input.dims.size() != 4 || input.elements() == 0)
    fail_input("{}: input: shape {}, wanted (B, 3, H, W)", file.where, shape_string(input.dims));
  return input;
}

// The most images of a mode that runs them as one batch, and holds all their taps.
constexpr size_t most_images_at_once = 32;

// `a` is null when it is b that runs alone, or beside the taps of `reference`. Of two sides, images are read
// as they are compared.
CheckInput make_input(const Options& options, const Side* a, const Side& b, const StateDict* reference) {
  CheckInput input;
  if (!options.images.empty()) {
    for (const std::string& name : options.images) {
      if (!std::filesystem::is_directory(name)) {
        input.files.push_back(name);
        continue;
      }
      const FolderFiles files = folder_files(name);
      log_left_out(name, files.others);
      for (const std::filesystem::path& file : files.images) input.files.push_back(file.string());
    }
    if (input.files.empty()) fail_input("--images {}: no image files in it", fmt::join(options.images, " "));
    const auto count = static_cast<int64_t>(input.files.size());
    const int64_t size = b.config.preprocess.crop;
    input.description = fmt::format("{} {}", count == 1 ? input.files[0] : fmt::format("{} images", count),
                                    shape_string(std::vector<int64_t>{count, 3, size, size}));
    if (a) return input;
    if (input.files.size() > most_images_at_once)
      fail_input(
          "--images: {} images: this mode runs them as one batch and holds all their taps: give at most {}",
          count, most_images_at_once);
    input.b = preprocessed(input.files, b.config.preprocess);
    input.a = reference ? input_of(*reference) : input.b;
    return input;
  }
  if (reference) {
    input.b = input_of(*reference);
    input.description = "the reference's";
  } else if (!options.input_tensor.empty()) {
    input.b = input_of(read_safetensors(options.input_tensor));
    input.description = options.input_tensor;
  } else {
    const int64_t size = b.config.preprocess.crop;
    const uint64_t seed = options.seed.value_or(0);
    input.b = noise({options.check.batch_size, b.config.in_chans, size, size}, seed);
    input.description = fmt::format("noise of seed {}", seed);
  }
  input.a = input.b;
  input.description += " " + shape_string(input.b.dims);
  return input;
}

// Where any weights are named they count, and the seed draws the input only.
void choose_weights(Options& options, std::initializer_list<const SideOptions*> sides) {
  const bool named = std::any_of(sides.begin(), sides.end(),
                                 [](const SideOptions* side) { return !side->model.weights.empty(); });
  options.seed_weights = options.seed && !named;
  const bool draws_input =
      options.images.empty() && options.input_tensor.empty() && options.reference.empty();
  if (options.seed && named && !draws_input)
    fail_input("--seed {}: nothing to draw: weights are named, and the input is given", *options.seed);
}

// What a mode that runs one side only runs: the model options, changed by --b.
Side single_side(Options& options) {
  if (!options.a.empty()) fail_input("--a: this mode runs one side only: give --b, or neither");
  const SideOptions chosen = side_options(options.model, "--b", options.b);
  choose_weights(options, {&chosen});
  return make_side(options, chosen, nullptr, nullptr);
}

template <class Result>
int told(const Options& options, const Result& result, bool is_equal) {
  fmt::print("{}", options.format == "json" ? json_report(result) : text_report(result));
  return is_equal ? 0 : 1;
}

void default_sides(Options& options) {
  if (!options.a.empty() || !options.b.empty()) return;
  const bool mamba2 = load_model_config({}, find_model(options.model)).forward.core == Core::mamba2;
  options.a = mamba2 ? "selective_scan_backend=torch" : "forward_core_version=v0";
  options.b = mamba2 ? "" : "forward_core_version=v1";
}

MatrixAxes matrix_axes(const Options& options, const Side& side) {
  MatrixAxes axes;
  const ModelOptions& given = options.model;
  if (given.device == "auto") {
    for (const DeviceReport& report : list_devices())
      if (report.usable) axes.devices.push_back(report.device);
  } else {
    axes.devices = {side.choice.device};
  }
  if (given.dtype == "auto")
    for (const PrecisionRow& row : table_of<Precision>) axes.precisions.push_back(row.value);
  else
    axes.precisions = {side.choice.precision};
  if (given.selective_scan_backend.empty())
    for (const ScanBackendRow& row : table_of<ScanBackend>) {
      if (resolved(row.value) == row.value) axes.backends.push_back(row.value);
    }
  else
    axes.backends = {side.config.selective_scan_backend};
  if (side.config.forward.core == Core::mamba2 || !given.forward_core_version.empty())
    axes.cores = {side.config.forward_core_version};
  else
    axes.cores = {ForwardCoreVersion::v0, ForwardCoreVersion::v1};
  return axes;
}

int run_find_precision(Options& options) {
  const Side side = single_side(options);
  const PrecisionSearch search =
      find_precision(side, make_input(options, nullptr, side, nullptr), options.check);
  if (search.found && !options.output.empty()) {
    const ModelFiles files = find_model(side_options(options.model, "--b", options.b).model);
    std::vector<std::string> quoted;
    for (const std::string& step : search.float32_ops) quoted.push_back('"' + step + '"');
    write_file(options.output, with_member(files.config_text(), files.config_name(), "float32_ops",
                                           fmt::format("[{}]", fmt::join(quoted, ", "))));
  }
  return told(options, search, search.found);
}

CheckResult compare_with_reference(Options& options) {
  if (!options.a.empty()) fail_input("--reference stands for a: give --b, or no --reference");
  if (!options.input_tensor.empty()) fail_input("--reference brings its own input: leave out --input-tensor");
  const Side b = single_side(options);
  const StateDict reference = read_safetensors(options.reference);
  return check_reference(reference, b, make_input(options, nullptr, b, &reference), options.check);
}

// Program and machine, for a report that is looked at elsewhere.
std::string about() {
  utsname system{};
  uname(&system);
  return fmt::format("vmamba-cli {} ({}; CUDA {}; {}) on {} {} {}, {:%Y-%m-%d %H:%M} UTC", build_version,
                     build_kind, build_cuda, build_libraries, system.sysname, system.release, system.machine,
                     fmt::gmtime(std::time(nullptr)));
}

int run_check_equal(Options& options) {
  const int modes = options.matrix + options.stress + options.find_precision + options.init_order +
                    (options.repeat > 0) + !options.save_taps.empty() + !options.reference.empty();
  if (modes > 1)
    fail_input(
        "--matrix, --stress, --find-precision, --init-order, --repeat, --save-taps and --reference exclude "
        "each other");
  const bool compares = modes == 0 || !options.reference.empty();
  if (!options.html.empty() && !compares)
    fail_input("--report goes with a comparison of a and b, or of --reference");
  options.check.maps = !options.html.empty();
  if (!options.output.empty() && !options.find_precision) fail_input("-o goes with --find-precision");
  if (options.matrix) {
    const Side side = single_side(options);
    const Matrix matrix = compare_all(side, matrix_axes(options, side),
                                      make_input(options, nullptr, side, nullptr), options.check);
    return told(options, matrix, matrix.equal());
  }
  if (options.find_precision) return run_find_precision(options);
  if (options.repeat > 0) {
    const Side side = single_side(options);
    const Repeatability repeated = repeat(side, make_input(options, nullptr, side, nullptr), options.repeat);
    return told(options, repeated, repeated.identical());
  }
  if (!options.save_taps.empty()) {
    const Side side = single_side(options);
    const StateDict file = saved_taps(side, make_input(options, nullptr, side, nullptr), options.all);
    write_safetensors(options.save_taps, file);
    spdlog::info("{}: {} tensors of {}", options.save_taps, file.tensors.size(), file.metadata.at("ran"));
    return 0;
  }

  CheckResult result;
  if (!options.reference.empty()) {
    result = compare_with_reference(options);
  } else {
    default_sides(options);
    const SideOptions chosen_a = side_options(options.model, "--a", options.a);
    const SideOptions chosen_b = side_options(options.model, "--b", options.b);
    if (options.init_order) {
      const auto config_of = [](const SideOptions& chosen) {
        return load_model_config(chosen.model, find_model(chosen.model));
      };
      const auto parting = first_init_parting(config_of(chosen_a), config_of(chosen_b));
      return told(options, parting, !parting);
    }
    choose_weights(options, {&chosen_a, &chosen_b});
    const Side a = make_side(options, chosen_a, nullptr, nullptr);
    const Side b = make_side(options, chosen_b, &a, &chosen_a);
    if (options.stress) {
      const std::vector<StressCase> cases = stress(a, b, options.seed.value_or(0), options.check);
      return told(options, cases, equal(cases));
    }
    result = check_sides(a, b, make_input(options, &a, b, nullptr), options.check);
  }
  if (!options.html.empty()) write_file(options.html, html_report(result, about()));
  if (options.format == "json")
    fmt::print("{}", json_report(result));
  else
    fmt::print("{}", text_report(result, options.all));
  return result.equal() ? 0 : 1;
}

}  // namespace

Command add_check_equal(CLI::App& app) {
  CLI::App* parser = app.add_subcommand("check-equal", "Compare two runs of a model, tap by tap");
  auto options = std::make_shared<Options>();
  add_model_options(*parser, options->model);
  const auto what = "What is compared", input = "Input", modes = "Instead of comparing a and b",
             output = "Output";
  parser
      ->add_option(
          "--a", options->a,
          "The reference: forward_core_version, selective_scan_backend, device, dtype, forward_type, config, "
          "weights, threads (default, without --b: forward_core_version=v0)")
      ->type_name("KEY=VALUE,…")
      ->group(what);
  parser
      ->add_option("--b", options->b, "What is compared with it, likewise (default: forward_core_version=v1)")
      ->type_name("KEY=VALUE,…")
      ->group(what);
  parser
      ->add_option("--reference", options->reference,
                   "Instead of --a: tensors input, logits and any taps, as PyTorch or --save-taps gave them")
      ->type_name("FILE")
      ->group(what);
  const auto tolerance = [&](const std::string& name, std::optional<double>& value, const std::string& help) {
    parser->add_option(name, value, help)
        ->check(CLI::NonNegativeNumber.description(""))
        ->type_name("X")
        ->group(what);
  };
  tolerance("--atol", options->check.absolute, "Tolerance: |a - b| up to this,");
  tolerance("--rtol", options->check.relative, "or up to this times the largest |a| of the tap");
  parser->add_flag("--equal-nan", options->check.equal_nan, "NaN equals NaN")->group(what);
  parser
      ->add_option_function<std::vector<std::string>>(
          "--seed",
          [options](const std::vector<std::string>& given) {
            uint64_t seed = 0;
            if (!given.empty() && !given[0].empty()) {
              char* rest = nullptr;
              errno = 0;
              seed = std::strtoull(given[0].c_str(), &rest, 0);
              if (*rest || errno || given[0][0] == '-')
                fail_input("--seed {}: not a seed (0 to 2^64 - 1)", given[0]);
            }
            options->seed = seed;
          },
          "Draw the input from a seed, and the weights where none are named, as torch.manual_seed does "
          "(default 0)")
      ->type_name("S")
      ->expected(0, 1)
      ->group(input);
  parser->add_option("--images", options->images, "Images to run on, instead of noise")
      ->type_name("FILE|FOLDER…")
      ->group(input);
  parser->add_option("--input-tensor", options->input_tensor, "Tensor input (B,3,H,W) to run on")
      ->type_name("FILE")
      ->group(input);
  parser->add_option("--batch-size", options->check.batch_size, "Images at a time, and how many of noise")
      ->check(CLI::Range(1, 4096).description(""))
      ->type_name("N")
      ->capture_default_str()
      ->group(input);
  parser
      ->add_flag("--matrix", options->matrix,
                 "Every device, dtype, backend and forward core that runs here, in pairs")
      ->group(modes);
  parser
      ->add_flag("--stress", options->stress,
                 "a and b on constants, extremes and activations that grow until overflow")
      ->group(modes);
  parser
      ->add_flag("--find-precision", options->find_precision,
                 "The smallest set of steps that need float32 for the logits to stay within tolerance")
      ->group(modes);
  parser
      ->add_option("-o,--output", options->output,
                   "With --find-precision: the config with these steps in float32_ops")
      ->type_name("FILE")
      ->group(modes);
  parser->add_option("--repeat", options->repeat, "N runs of b: the same bits every time?")
      ->check(CLI::Range(2, 1'000'000).description(""))
      ->type_name("N")
      ->group(modes);
  parser->add_option("--save-taps", options->save_taps, "Write b's input, taps and logits, for --reference")
      ->type_name("FILE")
      ->group(modes);
  parser->add_flag("--init-order", options->init_order, "Where the initialisations of two configs part")
      ->group(modes);
  parser
      ->add_flag("--all", options->all,
                 "Print or save every tap, not only block outputs and those around a difference")
      ->group(output);
  parser->add_option("--report", options->html, "Write a page to look at: plots, maps, tables")
      ->type_name("FILE.html")
      ->group(output);
  parser->add_option("--format", options->format, "text or json")
      ->check(CLI::IsMember({"text", "json"}).description(""))
      ->type_name("FORMAT")
      ->capture_default_str()
      ->group(output);
  return {parser, [options] { return run_check_equal(*options); }};
}

}  // namespace vmamba
