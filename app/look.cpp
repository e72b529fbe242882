// look: what one output pixel of a block's scan is made of, the class activation map, and how long states last.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "app/classifier.h"
#include "app/commands.h"
#include "app/option_values.h"
#include "app/program.h"
#include "kernels/error.h"
#include "lib/config/names.h"
#include "lib/images/preprocess.h"
#include "lib/labels/predictions.h"
#include "lib/model/scan_maps.h"
#include "lib/model/weights.h"
#include "lib/report/look_page.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/sha256.h"
#include "lib/support/text.h"
#include "lib/verify/provenance.h"
#include "lib/verify/tap_store.h"

namespace vmamba {
namespace {

struct Options {
  ModelOptions model;
  std::string image, at, layer, format = "text", page, png, maps, output;
  int of_class = -1;
};

struct Point {
  int64_t row = 0, column = 0;  // in pixels of the model's input
};

// "ROW,COLUMN" or "(ROW,COLUMN)"; the centre if it is empty.
Point parse_point(const std::string& text, int64_t side) {
  if (text.empty()) return {side / 2, side / 2};
  std::string inside = text;
  if (inside.starts_with('(') && inside.ends_with(')')) inside = inside.substr(1, inside.size() - 2);
  const size_t comma = inside.find(',');
  const auto number = [&](const std::string& word) {
    return parse_decimal<int64_t>(
        std::string_view(word).substr(std::min(word.find_first_not_of(' '), word.size())));
  };
  const auto row = number(inside.substr(0, comma)),
             column = comma == std::string::npos ? std::nullopt : number(inside.substr(comma + 1));
  if (!row || !column || *row < 0 || *row >= side || *column < 0 || *column >= side)
    fail_input("--at {}: wanted ROW,COLUMN of a pixel of the model's input, each from 0 to {}",
               in_quotes(text), side - 1);
  return {*row, *column};
}

struct Layer {
  std::string name;  // "layers.1.blocks.0"
  int stage = 0;
};

// A block, or the last one of a stage. Default: of the deepest stage with a map of 14 pixels or more.
Layer parse_layer(const std::string& text, const Config& config) {
  const auto sizes = stage_sizes(config, config.preprocess.crop, config.preprocess.crop);
  if (text.empty()) {
    int stage = 0;
    for (int i = 0; i < config.stages(); ++i)
      if (std::min(sizes[static_cast<size_t>(i)].first, sizes[static_cast<size_t>(i)].second) >= 14)
        stage = i;
    return {block_name(stage, config.depths[static_cast<size_t>(stage)] - 1), stage};
  }
  std::vector<std::string> names;
  for (int i = 0; i < config.stages(); ++i)
    for (int j = 0; j < config.depths[static_cast<size_t>(i)]; ++j) {
      names.push_back(block_name(i, j));
      if (text == names.back() || (text == stage_name(i) && j + 1 == config.depths[static_cast<size_t>(i)]))
        return {names.back(), i};
    }
  const std::string_view meant = nearest(text, {names.begin(), names.end()});
  fail_input("--layer {}: no block of this model{}: they are {} to {}", in_quotes(text),
             meant.empty() ? "" : fmt::format(" (did you mean {}?)", meant), names.front(), names.back());
}

// One image of a batch of one.
HostTensor without_batch(HostTensor value) {
  value.dims.erase(value.dims.begin());
  return value;
}

ClassMap class_map(const HostTensor& features, const StateDict& weights, const std::vector<float>& logits,
                   int of_class, const Labels& labels) {
  const std::vector<Prediction> all = top_k(logits, static_cast<int>(logits.size()));
  const Prediction& prediction =
      of_class < 0 ? all.at(0) : *std::ranges::find(all, of_class, &Prediction::index);
  const HostTensor head = weights.at("classifier.head.weight").to_float32(),
                   bias = weights.at("classifier.head.bias").to_float32();
  const auto index = static_cast<size_t>(prediction.index), channels = static_cast<size_t>(features.dims[2]);
  ClassMap map{labels.empty() ? fmt::format("class {}", index) : labels.names[index],
               prediction.probability,
               prediction.logit,
               bias.values[index],
               features.dims[0],
               features.dims[1],
               {}};
  for (size_t p = 0; p < features.values.size() / channels; ++p) {
    double sum = 0;
    for (size_t c = 0; c < channels; ++c)
      sum += static_cast<double>(features.values[p * channels + c]) * head.values[index * channels + c];
    map.values.push_back(sum);
  }
  return map;
}

// The input with at least 448 pixels a side, for the eye.
Image picture_of(const Image& image, PreprocessConfig preprocess) {
  const int times = (448 + preprocess.crop - 1) / preprocess.crop;
  preprocess.crop *= times;
  preprocess.resize *= times;
  return resize_and_crop(image, preprocess);
}

std::string text_report(const Look& look) {
  std::string text = fmt::format("{}\n", printable(look.file, std::string::npos));
  for (const auto* rows : {&look.facts, &look.ran_on})
    for (const auto& [term, value] : *rows) text += fmt::format("{:<10} {}\n", term, printable(value, 1000));
  text += fmt::format("\n{:<28} {:>9} {:>7} {:>9} {:>9}   {}\n", "", "weight", "itself", "50 %", "90 %",
                      "decay length in steps: 10 %, median, 90 %");
  const auto line = [&](const std::string& name, const ScanRow& row, const std::vector<double>* decay) {
    const RowSummary summary = summary_of(look, row);
    text += fmt::format("{:<28} {:>9.3g} {:>5.1f} % {:>6} px {:>6} px", name, summary.weight,
                        100 * summary.self, summary.half, summary.most);
    if (decay)
      text += fmt::format("   {:.3g}, {:.3g}, {:.3g}", quantile(*decay, 0.1), quantile(*decay, 0.5),
                          quantile(*decay, 0.9));
    text += '\n';
  };
  line("all directions together", look.maps.merged, nullptr);
  for (size_t k = 0; k < look.maps.directions.size(); ++k)
    line(direction_title(look.order, static_cast<int>(k)), look.maps.directions[k], &look.maps.decay[k]);
  return text +
         "weight: sum of the row; itself: part of the magnitude at the pixel; 50 %, 90 %: distance that holds it\n";
}

Json json_report(const Look& look) {
  Json json = named("file", look.file);
  for (const auto* rows : {&look.facts, &look.ran_on})
    for (const auto& [term, value] : *rows) json[term] = value;
  json["map"] = {look.maps.height, look.maps.width};
  json["pixel"] = {look.row, look.column};
  const auto row = [&](const ScanRow& of) {
    const RowSummary summary = summary_of(look, of);
    return Json{{"weight", summary.weight},
                {"itself", summary.self},
                {"half_within", summary.half},
                {"most_within", summary.most}};
  };
  json["merged"] = row(look.maps.merged);
  json["directions"] = Json::array();
  for (size_t k = 0; k < look.maps.directions.size(); ++k) {
    Json one = row(look.maps.directions[k]);
    one["order"] = direction_title(look.order, static_cast<int>(k));
    for (const auto& [name, part] : {std::pair("low", 0.1), std::pair("median", 0.5), std::pair("high", 0.9)})
      one["decay"][name] = quantile(look.maps.decay[k], part);
    json["directions"].push_back(std::move(one));
  }
  if (look.class_map)
    json["class_map"] = {{"label", look.class_map->name},
                         {"probability", look.class_map->probability},
                         {"logit", look.class_map->logit},
                         {"bias", look.class_map->bias}};
  return json;
}

// Tensors weight, contribution and magnitude (K + 1, H, W), the merged map last; class_map (H, W).
StateDict saved_maps(const Look& look) {
  StateDict file;
  const int64_t height = look.maps.height, width = look.maps.width;
  for (const auto& [name, part] :
       {std::pair("weight", &ScanRow::weight), std::pair("contribution", &ScanRow::contribution),
        std::pair("magnitude", &ScanRow::magnitude)}) {
    HostTensor maps{{static_cast<int64_t>(look.maps.directions.size()) + 1, height, width}, {}};
    for (const ScanRow& row : look.maps.directions)
      maps.values.insert(maps.values.end(), (row.*part).begin(), (row.*part).end());
    maps.values.insert(maps.values.end(), (look.maps.merged.*part).begin(), (look.maps.merged.*part).end());
    file.add(name, maps);
  }
  std::string order;
  for (size_t k = 0; k < look.maps.directions.size(); ++k) order += fmt::format("k{}, ", k);
  file.metadata["maps"] = order + "all";  // along the first dimension
  if (look.class_map)
    file.add("class_map", {{look.class_map->height, look.class_map->width},
                           {look.class_map->values.begin(), look.class_map->values.end()}});
  for (const auto* rows : {&look.facts, &look.ran_on})
    for (const auto& [term, value] : *rows) file.metadata[term] = printable_lines(value);
  return file;
}

int run_look(const Options& options) {
  for (const auto& [option, file, ending] :
       {std::tuple("--report", options.page, ".html"), std::tuple("--png", options.png, ".png"),
        std::tuple("--save-maps", options.maps, ".safetensors")})
    if (!file.empty() && lower_case(std::filesystem::path(file).extension().string()) != ending)
      fail_input("{} {}: name a {} file", option, file, ending);
  std::optional<OutputFile> page, png, maps_file, output;  // before anything is read
  if (!options.page.empty()) page.emplace(options.page);
  if (!options.png.empty()) png.emplace(options.png);
  if (!options.maps.empty()) maps_file.emplace(options.maps);
  if (!options.output.empty()) output.emplace(options.output);
  ModelFiles files = find_model(options.model);
  Config config = load_model_config(options.model, files);
  if (config.in_chans != 3)
    fail_input("images have 3 channels, the config's in_chans is {}", config.in_chans);
  if (config.ssm_ratio <= 0) fail_input("{}: its blocks have no scan (ssm_ratio 0)", files.config_name());
  if (config.forward.core == Core::cascade)
    fail_input(
        "forward_type {}: scans lines of a scanned map, whose rows are not one matrix's: look is for the others",
        config.forward_type);
  if (options.of_class >= config.num_classes)
    fail_input("--class {}: the model has {} classes, from 0", options.of_class, config.num_classes);
  const int crop = config.preprocess.crop;
  const Point point = parse_point(options.at, crop);
  const Layer layer = parse_layer(options.layer, config);
  const std::string bytes = read_file(options.image, max_file_bytes);
  const Image image = decode_image(parse_image(bytes, options.image));
  StateDict weights = read_weights(files);
  adopt_backbone(config, weights);
  if (config.out_indices && options.of_class >= 0)
    fail_input("--class {}: {} is a backbone, which has no classes", options.of_class, weights.where);
  weights = canonical_weights(config, weights);
  const RunChoice choice = choose_run(options.model);
  Runner runner(config, weights, choice);
  spdlog::info("{}", to_string(runner.report()));

  std::vector<std::string> names{layer.name + ".op.conv2d", layer.name + ".op.x_proj"};
  if (!config.out_indices) names.emplace_back("classifier.norm");
  TapSelection taps(runner.kernels(), names);
  const Image input = resize_and_crop(image, config.preprocess);
  const HostTensor logits = runner.run_pixels(input.rgb.data(), 1, crop, crop, &taps);

  Look look{.file = options.image, .layer = layer.name, .picture = picture_of(image, config.preprocess)};
  const ScanInput scan{without_batch(taps.values()[0]), without_batch(taps.values()[1])};
  if (!all_finite(scan.x.values) || !all_finite(scan.projections.values))
    fail_input(
        "{}: what its scan reads is not finite in {}{}", layer.name, to_string(choice.precision),
        choice.precision == Precision::float16
            ? fmt::format(": try --dtype {} or {}", to_string(DType::bfloat16), to_string(DType::float32))
            : "");
  look.order = config.forward.order;
  look.row = point.row * scan.x.dims[0] / crop;
  look.column = point.column * scan.x.dims[1] / crop;
  look.maps = scan_maps(scan, scan_parameters(config, weights, layer.stage, layer.name), look.order, look.row,
                        look.column);
  look.facts = {{"layer", fmt::format("{}, map {} x {}, {} channels", layer.name, look.maps.height,
                                      look.maps.width, scan.x.dims[2])},
                {"pixel", fmt::format("({}, {}) of the map, input pixel ({}, {}) of {} x {}", look.row,
                                      look.column, point.row, point.column, crop, crop)}};
  if (!config.out_indices) {
    Labels labels;
    if (!files.labels.empty()) labels = read_labels(files.labels, config.num_classes);
    const bool answered = have_answer(logits.values);
    constexpr const char* none = "none: the logits are NaN or infinite";
    if (answered || options.of_class >= 0)
      look.class_map =
          class_map(without_batch(taps.values()[2]), weights, logits.values, options.of_class, labels);
    if (!answered) look.facts.emplace_back("answer", none);
    if (look.class_map)
      look.facts.emplace_back(
          options.of_class < 0 ? "answer" : "class",
          look.class_map->name +
              (answered ? fmt::format(", {:.2f} %", 100 * look.class_map->probability) : ""));
  }
  look.ran_on = {{"ran", to_string(runner.report())}};
  Provenance provenance{this_program(), 1, {}, {}, {}, sha256(bytes)};
  provenance.b = {files.weights.string(), tensors_sha256(weights), files.config_name(), config_sha256(config),
                  choice.threads};
  for (auto& row : rows(provenance)) look.ran_on.push_back(std::move(row));

  if (page) page->stream() << look_page(look);
  if (png) png->stream() << look_sheet(look);
  std::ostream& out = output ? output->stream() : std::cout;
  out << (options.format == "json" ? dump_json(json_report(look), 2) + "\n" : text_report(look));
  if (!out.flush()) fail_machine("the results could not be written");
  for (auto* file : {&page, &png, &output})
    if (*file) (*file)->commit();
  if (maps_file) write_safetensors(*maps_file, saved_maps(look));
  return 0;
}

}  // namespace

Command add_look(CLI::App& app) {
  CLI::App* parser = app.add_subcommand(
      "look", "Show which pixels a scan's output is made of, and the class activation map");
  auto options = std::make_shared<Options>();
  parser->add_option("IMAGE", options->image, "Image file")->required();
  parser
      ->add_option("--at", options->at,
                   "Output pixel, as pixel of the model's input, from 0 (default: its centre)")
      ->type_name("ROW,COLUMN")
      ->expected(1);
  parser
      ->add_option("--layer", options->layer,
                   "layers.I.blocks.J, or layers.I for its last block (default: of the deepest stage with a "
                   "map of 14 pixels or more)")
      ->type_name("BLOCK");
  parser
      ->add_option("--class", options->of_class, "Class of the activation map, from 0 (default: the answer)")
      ->type_name("N")
      ->check(whole_number(0));
  parser->add_option("--report", options->page, "Write an HTML page with all maps over the image")
      ->type_name("F.html");
  parser->add_option("--png", options->png, "Write all maps as one picture")->type_name("F.png");
  parser
      ->add_option("--save-maps", options->maps,
                   "Write tensors weight, contribution, magnitude and class_map")
      ->check(safetensors_name)
      ->type_name("F.safetensors");
  parser->add_option("--format", options->format, "text or json")
      ->check(CLI::IsMember({"text", "json"}).description(""))
      ->type_name("FORMAT")
      ->capture_default_str();
  parser->add_option("-o,--output", options->output, "File for the result, instead of stdout")
      ->type_name("FILE");
  add_model_options(*parser, options->model, {.labels = true});
  return {parser, [options] { return run_look(*options); }};
}

}  // namespace vmamba
