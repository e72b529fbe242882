// nearest: the images of a file of features that are most similar to given ones, by the cosine of their features.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>

#include "app/commands.h"
#include "app/feature_run.h"
#include "app/option_values.h"
#include "kernels/error.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

struct Options {
  ModelOptions model;
  std::vector<std::string> queries;
  std::string among, at, format = "text", output;
  int top_k = 5;
};

// The rows that are searched: one tensor of what `features` wrote.
struct Among {
  std::string where, name;
  StoredTensor tensor;             // (n, channels) float32
  std::vector<double> lengths;     // of the rows
  std::vector<std::string> files;  // of the rows; "#3" if the file does not say

  size_t rows() const { return static_cast<size_t>(tensor.dims[0]); }
  size_t channels() const { return static_cast<size_t>(tensor.dims[1]); }
  std::vector<float> row(size_t i) const {
    std::vector<float> values(channels());
    std::memcpy(values.data(), static_cast<const char*>(tensor.data) + i * channels() * sizeof(float),
                channels() * sizeof(float));
    return values;
  }
};

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// Zero, or not finite: no cosine is defined.
bool has_direction(double length) {
  return std::isfinite(length) && length > 0;
}

Among read_among(const StateDict& file, const std::string& at) {
  Among among{file.where, at, {}, {}, {}};
  if (at.empty() && file.tensors.size() != 1)
    fail_input("{}: holds {} tensors: name one with --at", file.where, file.tensors.size());
  if (at.empty()) among.name = file.tensors[0].first;
  among.tensor = file.at(among.name);
  const StoredTensor& tensor = among.tensor;
  if (tensor.dims.size() != 2 || tensor.dims[0] < 1 || tensor.dims[1] < 1 || tensor.dtype != DType::float32)
    fail_input(
        "{}: tensor {} is {} {}, wanted (n, channels) in float32, as features --at classifier.pool writes it",
        file.where, in_quotes(among.name), to_string(tensor.dtype), shape_string(tensor.dims));
  const auto named = files_in(file, among.rows());
  if (file.metadata.contains("files") && !named)
    fail_input("{}: its metadata \"files\" is not a list of {} names", file.where, among.rows());
  size_t without = 0;
  for (size_t i = 0; i < among.rows(); ++i) {
    const std::vector<float> row = among.row(i);
    among.lengths.push_back(std::sqrt(dot(row, row)));
    without += !has_direction(among.lengths.back());
    among.files.push_back(named ? (*named)[i] : fmt::format("#{}", i));
  }
  if (without == among.rows()) fail_input("{}: no row has a cosine: all are zero or not finite", file.where);
  if (without > 0)
    spdlog::warn("{}: {} of {} rows are zero or not finite and are left out", file.where, without,
                 among.rows());
  return among;
}

// Features of another model are numbers of another meaning.
void require_same_model(const StateDict& file, const Provenance::Model& model) {
  for (const auto& [key, is] : {std::pair("b/weights_sha256", model.weights_sha256),
                                std::pair("b/config_sha256", model.config_sha256)}) {
    const auto was = file.metadata.find(key);
    if (was == file.metadata.end())
      fail_input("{}: does not say which model its features are of: write it with features", file.where);
    if (was->second != is)
      fail_input("{}: its features are of another model: {} {}, this run has {}", file.where, key + 2,
                 printable(was->second), is);
  }
}

struct Neighbour {
  size_t row = 0;
  double similarity = 0;
};

// None if the query is zero or not finite.
std::vector<Neighbour> neighbours(const Among& among, std::span<const float> query, size_t k) {
  const double length = std::sqrt(dot(query, query));
  std::vector<Neighbour> all;
  if (!has_direction(length)) return all;
  for (size_t i = 0; i < among.rows(); ++i)
    if (has_direction(among.lengths[i]))
      all.push_back({i, dot(among.row(i), query) / (length * among.lengths[i])});
  k = std::min(k, all.size());
  std::ranges::partial_sort(
      all, all.begin() + static_cast<ptrdiff_t>(k), [](const Neighbour& a, const Neighbour& b) {
        return a.similarity != b.similarity ? a.similarity > b.similarity : a.row < b.row;
      });
  all.resize(k);
  return all;
}

int run_nearest(const Options& options) {
  std::optional<OutputFile> file;
  if (!options.output.empty()) file.emplace(options.output);
  std::ostream& out = file ? file->stream() : std::cout;
  const StateDict features = read_safetensors(options.among);
  const Among among = read_among(features, options.at);
  FeatureRun run(options.model, {among.name}, 0);
  require_same_model(features, *run.provenance().b);
  std::vector<std::vector<Neighbour>> found;
  run.run_images(options.queries, '\n', {}, [&](const std::vector<HostTensor>& values) {
    const HostTensor& rows = values.at(0);
    check(rows.dims.back() == among.tensor.dims[1] && rows.dims.size() == 2, "rows of another size");
    for (size_t i = 0; i < static_cast<size_t>(rows.dims[0]); ++i)
      found.push_back(neighbours(among,
                                 std::span(rows.values).subspan(i * among.channels(), among.channels()),
                                 static_cast<size_t>(options.top_k)));
  });

  Json results = Json::array();
  size_t no_answer = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    Json result = named("file", run.files[i]);
    if (options.format == "text") out << printable(run.files[i], std::string::npos) << '\n';
    result["nearest"] = Json::array();
    if (found[i].empty()) {
      ++no_answer;
      result["error"] = "its features are zero or not finite";
      if (options.format == "text") out << "  no answer: its features are zero or not finite\n";
    }
    for (const Neighbour& one : found[i]) {
      if (options.format == "text")
        out << fmt::format("{:8.4f}  {}\n", one.similarity,
                           printable(among.files[one.row], std::string::npos));
      Json neighbour = named("file", among.files[one.row]);
      neighbour.update({{"row", one.row}, {"similarity", one.similarity}});
      result["nearest"].push_back(std::move(neighbour));
    }
    results.push_back(std::move(result));
  }
  if (options.format == "json") {
    Json document = to_json(run.provenance());
    document["among"] = among.where;
    document["tensor"] = among.name;
    document["results"] = std::move(results);
    out << dump_json(document, 2) << '\n';
  }
  if (!out.flush()) fail_machine("the results could not be written");
  if (file) file->commit();
  if (no_answer > 0)
    spdlog::warn("{} of {} queries have features that are zero or not finite", no_answer, found.size());
  return no_answer > 0 ? 1 : run.tally.exit_code();
}

}  // namespace

Command add_nearest(CLI::App& app) {
  CLI::App* parser =
      app.add_subcommand("nearest", "Find the most similar images in a file that features wrote");
  auto options = std::make_shared<Options>();
  parser
      ->add_option("QUERY", options->queries,
                   "Image files, folders (searched recursively), archives (tar, zip), - for paths on stdin")
      ->required();
  parser->add_option("--among", options->among, "Features of the images that are searched, of the same model")
      ->type_name("F.safetensors")
      ->required();
  parser->add_option("--at", options->at, "Which tensor of the file, if it holds several")->type_name("TAP");
  parser->add_option("--topk", options->top_k, "Number of images per query")
      ->check(whole_number(1, 1 << 20))
      ->type_name("K")
      ->capture_default_str();
  parser->add_option("--format", options->format, "text or json")
      ->check(CLI::IsMember({"text", "json"}).description(""))
      ->type_name("FORMAT")
      ->capture_default_str();
  parser->add_option("-o,--output", options->output, "File for the results, instead of stdout")
      ->type_name("FILE");
  add_model_options(*parser, options->model);
  return {parser, [options] { return run_nearest(*options); }};
}

}  // namespace vmamba
