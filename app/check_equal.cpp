// check-equal: are two runs of a model the same function?
#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "app/commands.h"
#include "app/model_options.h"
#include "kernels/error.h"
#include "lib/check_equal.h"
#include "lib/check_report.h"
#include "lib/init.h"

namespace vmamba {
namespace {

struct Options {
  ModelOptions model;
  std::string a, b, reference, input_tensor, format = "text";
  std::vector<std::string> images;
  std::optional<uint64_t> seed;
  CheckOptions check;
  bool all = false;
};

// The model options of one side: the command's own, changed by "K=V,…".
struct SideOptions {
  ModelOptions model;
  std::string forward_type;
};

SideOptions side_options(const ModelOptions& common, const std::string& option, const std::string& text) {
  SideOptions side{common, {}};
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
  const ModelFiles files = find_model(chosen.model);
  side.config = load_model_config(chosen.model, files);
  if (!chosen.forward_type.empty()) {
    side.config.forward_type = chosen.forward_type;
    side.config.forward = parse_forward_type(chosen.forward_type, "forward_type");
  }
  side.choice = choose_run(chosen.model);
  const bool same_model = other && other_chosen->model.config == chosen.model.config &&
                          other_chosen->model.weights == chosen.model.weights &&
                          (!options.seed || other_chosen->forward_type == chosen.forward_type);
  if (same_model)
    side.weights = other->weights;
  else if (options.seed)
    side.weights = std::make_shared<StateDict>(init_weights(side.config, *options.seed));
  else
    side.weights = std::make_shared<StateDict>(load_model_weights(files));
  return side;
}

HostTensor input_of(const StateDict& file) {
  HostTensor input = file.at("input").to_float32();
  if (input.dims.size() != 4)
    fail_input("{}: input: shape {}, wanted (B, 3, H, W)", file.where, shape_string(input.dims));
  return input;
}

// `a` is null when the taps of a come from `reference`.
CheckInput make_input(const Options& options, const Side* a, const Side& b, const StateDict* reference) {
  CheckInput input;
  if (!options.images.empty()) {
    input.files = options.images;
    input.description =
        options.images.size() == 1 ? options.images[0] : fmt::format("{} images", options.images.size());
    input.b = preprocessed(options.images, b.config.preprocess);
    input.a = reference ? input_of(*reference) : preprocessed(options.images, a->config.preprocess);
  } else {
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
  }
  input.description += " " + shape_string(input.b.dims);
  return input;
}

int run_check_equal(Options& options) {
  CheckResult result;
  if (!options.reference.empty()) {
    if (!options.a.empty()) fail_input("--reference stands for a: give --b, or no --reference");
    if (!options.input_tensor.empty())
      fail_input("--reference brings its own input: leave out --input-tensor");
    const Side b = make_side(options, side_options(options.model, "--b", options.b), nullptr, nullptr);
    const StateDict reference = read_safetensors(options.reference);
    const CheckInput input = make_input(options, nullptr, b, &reference);
    result = check_reference(reference, b, input, options.check);
  } else {
    if (options.a.empty() && options.b.empty()) {
      options.a = "forward_core_version=v0";
      options.b = "forward_core_version=v1";
    }
    const SideOptions chosen_a = side_options(options.model, "--a", options.a);
    const SideOptions chosen_b = side_options(options.model, "--b", options.b);
    const Side a = make_side(options, chosen_a, nullptr, nullptr);
    const Side b = make_side(options, chosen_b, &a, &chosen_a);
    result = check_sides(a, b, make_input(options, &a, b, nullptr), options.check);
  }
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
  parser->add_option(
      "--a", options->a,
      "The reference: KEY=VALUE,… of forward_core_version, selective_scan_backend, device, dtype, "
      "forward_type, config, weights, threads (default, without --b: forward_core_version=v0)");
  parser->add_option("--b", options->b,
                     "What is compared with it, likewise (default: forward_core_version=v1)");
  parser
      ->add_option("--reference", options->reference,
                   "Instead of --a: tensors input, logits and any taps, as PyTorch gave them")
      ->type_name("FILE");
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
          "Initialise the weights and draw the input from a seed, as torch.manual_seed does (default 0)")
      ->type_name("S")
      ->expected(0, 1);
  parser->add_option("--images", options->images, "Images to run on, instead of noise")->type_name("FILE…");
  parser->add_option("--input-tensor", options->input_tensor, "Tensor input (B,3,H,W) to run on")
      ->type_name("FILE");
  parser->add_option("--batch-size", options->check.batch_size, "Images at a time")
      ->check(CLI::Range(1, 4096).description(""))
      ->capture_default_str();
  const auto tolerance = [&](const std::string& name, std::optional<double>& value, const std::string& help) {
    parser->add_option(name, value, help)->check(CLI::NonNegativeNumber.description(""));
  };
  tolerance("--atol", options->check.absolute, "Tolerance: |a - b| up to this, ");
  tolerance("--rtol", options->check.relative, "or up to this times the largest |a| of the tap");
  parser->add_flag("--equal-nan", options->check.equal_nan, "NaN equals NaN");
  parser->add_flag("--all", options->all,
                   "Print every tap, not only block outputs and those around the first difference");
  parser->add_option("--format", options->format, "text or json")
      ->check(CLI::IsMember({"text", "json"}).description(""))
      ->capture_default_str();
  return {parser, [options] { return run_check_equal(*options); }};
}

}  // namespace vmamba
