// features, through the real binary: taps equal classify's values, layouts, backbones equal to the public class, errors.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/devices.h"
#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

const fs::path model = data("models/s1_ln2d");
const std::string cat = data("chelsea.png").string(), coffee = data("coffee.png").string();

CliResult run(const std::string& command, const std::vector<std::string>& arguments, const CliRun& how = {}) {
  return run_model(model, command, arguments, how);
}

double largest_difference(const HostTensor& a, const HostTensor& b) {
  REQUIRE(a.dims == b.dims);
  REQUIRE(a.elements() > 0);
  double largest = 0;
  for (size_t i = 0; i < a.values.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(a.values[i]) - b.values[i]));
  return largest;
}

}  // namespace

TEST_CASE(
    "logits and classifier.pool are classify's, whatever the batch; the head of the pool gives the logits") {
  const TemporaryDirectory folder;
  REQUIRE(run("classify", {cat, coffee, cat, "--save-logits", folder / "l.safetensors"}).exit_code == 0);
  const HostTensor wanted = read_safetensors(folder / "l.safetensors").at("logits").to_float32();
  for (const std::string batch : {"1", "2", "8"}) {
    const std::string file = folder / ("f" + batch + ".safetensors");
    const CliResult result = run(
        "features", {cat, coffee, cat, "--at", "logits,classifier.pool", "--batch-size", batch, "-o", file});
    REQUIRE_MESSAGE(result.exit_code == 0, result.err);
    CHECK(result.out.empty());
    const StateDict saved = read_safetensors(file);
    CHECK(largest_difference(saved.at("logits").to_float32(), wanted) == 0);
    CHECK(nlohmann::json::parse(saved.metadata.at("files")) == nlohmann::json({cat, coffee, cat}));
    CHECK(saved.metadata.at("b/weights_sha256").size() == 64);
    CHECK(saved.metadata.at("input_sha256").size() == 64);
    const HostTensor pool = saved.at("classifier.pool").to_float32();
    const StateDict weights = read_safetensors(model / "weights.safetensors");
    const HostTensor head = weights.at("classifier.head.weight").to_float32(),
                     bias = weights.at("classifier.head.bias").to_float32();
    const size_t channels = static_cast<size_t>(pool.dims[1]), classes = static_cast<size_t>(wanted.dims[1]);
    for (size_t i = 0; i < 3; ++i)
      for (size_t c = 0; c < classes; ++c) {
        double logit = bias.values[c];
        for (size_t k = 0; k < channels; ++k)
          logit += static_cast<double>(pool.values[i * channels + k]) * head.values[c * channels + k];
        CHECK(logit == doctest::Approx(wanted.values[i * classes + c]).epsilon(1e-4).scale(1));
      }
  }
}

TEST_CASE("taps are those that check-equal saves, as nhwc, and as nchw transposed") {
  const TemporaryDirectory folder;
  const std::string io = model / "io.safetensors",
                    taps = "layers.1,layers.0.blocks.0.op.scan,layers.0.downsample";
  REQUIRE(run("check-equal", {"--input-tensor", io, "--save-taps", folder / "taps.safetensors", "--all"})
              .exit_code == 0);
  REQUIRE(run("features",
              {"--input-tensor", io, "--at", taps, "--layout", "nhwc", "-o", folder / "nhwc.safetensors"})
              .exit_code == 0);
  REQUIRE(
      run("features", {"--input-tensor", io, "--at", taps, "-o", folder / "nchw.safetensors"}).exit_code ==
      0);
  const StateDict reference = read_safetensors(folder / "taps.safetensors"),
                  nhwc = read_safetensors(folder / "nhwc.safetensors"),
                  nchw = read_safetensors(folder / "nchw.safetensors");
  CHECK(nhwc.tensors.size() == 3);
  CHECK(nchw.metadata.at("layout") == "nchw");
  for (const std::string name : {"layers.1", "layers.0.blocks.0.op.scan", "layers.0.downsample"}) {
    CAPTURE(name);
    const HostTensor wanted = reference.at(name == "layers.1" ? "layers.1.blocks" : name).to_float32();
    const HostTensor map = nhwc.at(name).to_float32(), planes = nchw.at(name).to_float32();
    CHECK(largest_difference(map, wanted) == 0);
    REQUIRE(planes.dims == std::vector<int64_t>{map.dims[0], map.dims[3], map.dims[1], map.dims[2]});
    const auto h = map.dims[1], w = map.dims[2], c = map.dims[3];
    bool same = true;
    for (int64_t i = 0; i < map.elements(); ++i) {
      const int64_t channel = i % c, pixel = i / c % (h * w), image = i / (c * h * w);
      same = same && map.values[static_cast<size_t>(i)] ==
                         planes.values[static_cast<size_t>((image * c + channel) * h * w + pixel)];
    }
    CHECK(same);
  }
  for (const std::string k : {"k1", "k3"}) {  // each by itself
    const std::string name = "layers.0.blocks.0.op.scan." + k, file = folder / (k + ".safetensors");
    REQUIRE(run("features", {"--input-tensor", io, "--at", name, "--layout", "nhwc", "-o", file}).exit_code ==
            0);
    CHECK(largest_difference(read_safetensors(file).at(name).to_float32(), reference.at(name).to_float32()) ==
          0);
  }
}

TEST_CASE("--normalize makes unit vectors of the same direction; .npy holds the same numbers") {
  const TemporaryDirectory folder;
  REQUIRE(run("features", {cat, coffee, "-o", folder / "a.safetensors"}).exit_code == 0);
  REQUIRE(run("features", {cat, coffee, "--normalize", "-o", folder / "b.safetensors"}).exit_code == 0);
  REQUIRE(run("features", {cat, coffee, "--normalize", "-o", folder / "b.npy"}).exit_code == 0);
  const HostTensor a = read_safetensors(folder / "a.safetensors").at("classifier.pool").to_float32(),
                   b = read_safetensors(folder / "b.safetensors").at("classifier.pool").to_float32();
  const size_t channels = static_cast<size_t>(a.dims[1]);
  for (size_t row = 0; row < 2; ++row) {
    double aa = 0, bb = 0, ab = 0;
    for (size_t i = row * channels; i < (row + 1) * channels; ++i) {
      aa += static_cast<double>(a.values[i]) * a.values[i];
      bb += static_cast<double>(b.values[i]) * b.values[i];
      ab += static_cast<double>(a.values[i]) * b.values[i];
    }
    CHECK(bb == doctest::Approx(1).epsilon(1e-6));
    CHECK(ab == doctest::Approx(std::sqrt(aa)).epsilon(1e-6));
  }
  const std::string npy = read_file(folder / "b.npy");
  REQUIRE(npy.starts_with(std::string("\x93NUMPY\x01\x00", 8)));
  const size_t header = static_cast<uint8_t>(npy[8]) + 256u * static_cast<uint8_t>(npy[9]);
  CHECK((10 + header) % 64 == 0);
  CHECK(contains(npy.substr(10, header), "'shape': (2, " + std::to_string(channels) + ", )"));
  REQUIRE(npy.size() == 10 + header + b.values.size() * sizeof(float));
  CHECK(std::memcmp(npy.data() + 10 + header, b.values.data(), b.values.size() * sizeof(float)) == 0);
}

TEST_CASE(
    "backbones of a classifier's, mmdet's and mmseg's checkpoints return what the public class returns") {
  const TemporaryDirectory folder;
  for (const std::string layout : {"classifier", "mmdet", "mmseg"}) {
    CAPTURE(layout);
    const fs::path files = data("backbones/" + layout);
    const StateDict reference = read_safetensors(files / "io.safetensors");
    std::string names;
    for (const auto& [name, tensor] : reference.tensors)
      if (name != "input") names += (names.empty() ? "" : ",") + name;
    const std::string out = folder / (layout + ".safetensors");
    std::vector<std::string> arguments{"features",
                                       "--config",
                                       files / "config.json",
                                       "--weights",
                                       files / "checkpoint.pth",
                                       "--input-tensor",
                                       files / "io.safetensors",
                                       "--layout",
                                       "nhwc",
                                       "--device",
                                       "cpu",
                                       "-o",
                                       out};
    if (layout == "classifier") arguments.insert(arguments.end(), {"--at", names});  // else all, by default
    const CliResult result = run_cli(arguments);
    REQUIRE_MESSAGE(result.exit_code == 0, result.err);
    const StateDict saved = read_safetensors(out);
    CHECK(saved.tensors.size() + 1 == reference.tensors.size());
    for (const auto& [name, tensor] : saved.tensors) {
      CAPTURE(name);
      CHECK(largest_difference(tensor.to_float32(), reference.at(name).to_float32()) < 5e-6);
    }
    for (const std::string dtype : {"float32", "float16"}) {
      const CliResult check =
          run_cli({"check-equal", "--config", files / "config.json", "--weights", files / "checkpoint.pth",
                   "--reference", files / "io.safetensors", "--dtype", dtype});
      CHECK_MESSAGE(check.exit_code == 0, check.out << check.err);
      CHECK(contains(check.out, "outnorm2"));
    }
    const CliResult taps = run_cli({"info", "--config", files / "config.json", "--weights",
                                    files / "checkpoint.pth", "--format", "taps"});
    CHECK(contains(taps.out, layout == "classifier" ? "classifier.pool" : "outnorm2 "));
  }
}

TEST_CASE("a backbone has no logits: what compares them says so") {
  const fs::path files = data("backbones/mmdet");
  const std::vector<std::string> weights{
      "--config", files / "config.json", "--weights", files / "checkpoint.pth", "--device", "cpu"};
  const auto with = [&](std::vector<std::string> words, const std::vector<std::string>& more) {
    words.insert(words.end(), weights.begin(), weights.end());
    words.insert(words.end(), more.begin(), more.end());
    return run_cli(words);
  };
  for (const char* mode : {"--matrix", "--find-precision", "--stress"})
    check_error(with({"check-equal"}, {mode}), 2, {"a backbone, which has no logits", mode});
  check_error(with({"check-equal"}, {"--images", cat, "--min-agreement", "0.9"}), 2,
              {"no logits", "--min-agreement"});

  const CliResult runs =
      with({"check-equal", "--b", "selective_scan_backend=torch"}, {"--images", cat, coffee});
  CHECK_MESSAGE(runs.exit_code == 0, runs.err << runs.out);
  CHECK(!contains(runs.out, "logits"));
  const TemporaryDirectory folder;
  check_error(with({"features", cat, "--at", "classifier.pool", "-o", folder / "f.npy"}, {}), 2,
              {"classifier.pool", "no such tap of this backbone"});
  check_error(with({"classify", cat}, {}), 2, {"a backbone", "give the checkpoint of the whole classifier"});
  CHECK(entries(folder.path()) == 0);
}

TEST_CASE("--layout is of maps") {
  const TemporaryDirectory folder;
  check_error(run("features", {cat, "-o", folder / "f.npy", "--layout", "nhwc"}), 2,
              {"--layout: none of classifier.pool is a map"});
  CHECK(run("features", {cat, "-o", folder / "f.safetensors", "--layout", "nhwc", "--at", "layers.0,logits"})
            .exit_code == 0);
}

TEST_CASE("what features refuses, and that nothing is left behind") {
  const TemporaryDirectory folder;
  const std::string out = folder / "f.safetensors";
  const auto refused = [&](std::vector<std::string> arguments, const std::vector<std::string>& words) {
    check_error(run("features", std::move(arguments)), 2, words);
    CHECK(entries(folder.path()) == 0);
  };
  refused({cat}, {"nowhere to write to", "-o F.safetensors"});
  refused({cat, "-o", folder / "f.txt"}, {"f.txt", ".safetensors or a .npy"});
  refused({"-o", out}, {"no input"});
  refused({cat, "--input-tensor", model / "io.safetensors", "-o", out}, {"leave out one of the two"});
  refused({cat, "--at", "layers.0.block.1", "-o", out},
          {"no such tap", "did you mean layers.0.blocks.0?", "info --format taps"});
  refused({cat, "--at", "layers.7", "-o", out}, {"layers.7", "no such tap"});
  refused({cat, "--at", "outnorm7", "-o", out}, {"outnorm7", "stages"});
  refused({cat, "--at", "logits,logits", "-o", out}, {"named twice"});
  refused({cat, "--at", "logits,classifier.pool", "-o", folder / "f.npy"}, {"one tensor"});
  refused({cat, "--at", "outnorm0,logits", "-o", out}, {"logits", "backbone, which has no classifier"});
  refused({data("images/README.md"), "-o", out}, {"README.md"});
}

TEST_CASE("an image that cannot be read is skipped and said; the other rows are as without it") {
  const TemporaryDirectory folder;
  const std::string bad = folder / "bad.png";
  write_file(bad, "no image");
  const CliResult result = run("features", {cat, bad, coffee, "-o", folder / "f.safetensors"});
  CHECK(result.exit_code == 1);
  CHECK(contains(result.err, "skipped: " + bad));
  REQUIRE(run("features", {cat, coffee, "-o", folder / "g.safetensors"}).exit_code == 0);
  const StateDict with = read_safetensors(folder / "f.safetensors"),
                  without = read_safetensors(folder / "g.safetensors");
  CHECK(with.metadata.at("files") == without.metadata.at("files"));
  CHECK(largest_difference(with.at("classifier.pool").to_float32(),
                           without.at("classifier.pool").to_float32()) < 1e-5);
}

TEST_CASE("rows that are not finite are written, counted and exit code 1") {
  const TemporaryDirectory folder;
  StateDict weights;
  for (const auto& [name, tensor] : read_safetensors(model / "weights.safetensors").tensors) {
    HostTensor values = tensor.to_float32();
    if (name == "classifier.norm.weight") values.values[0] = NAN;
    weights.add(name, values);
  }
  write_safetensors(folder / "w.safetensors", weights);
  const auto at = [&](const std::string& tap) {
    return run_cli({"features", cat, coffee, "--at", tap, "--config", model / "config.json", "--weights",
                    folder / "w.safetensors", "--device", "cpu", "-o", folder / "f.safetensors", "--summary",
                    folder / "s.json"});
  };
  const CliResult result = at("classifier.pool");
  CHECK(result.exit_code == 1);
  CHECK(contains(result.err, "2 rows with values that are not finite"));
  auto summary = nlohmann::json::parse(read_file(folder / "s.json"));
  CHECK(summary["no_answer"] == 2);
  CHECK(summary["exit_code"] == 1);
  const HostTensor pool = read_safetensors(folder / "f.safetensors").at("classifier.pool").to_float32();
  CHECK(pool.dims[0] == 2);
  CHECK(std::isnan(pool.values[0]));
  CHECK(at("layers.0").exit_code == 0);
  summary = nlohmann::json::parse(read_file(folder / "s.json"));
  CHECK(summary["no_answer"] == 0);
}

TEST_CASE("lists, folders, archives and shards are read as classify reads them") {
  const TemporaryDirectory folder;
  const std::string archive = data("archives/small.tar").string();
  const CliResult whole =
      run("features", {archive, "-", "-o", folder / "w.safetensors"}, {.input = cat + "\n"});
  const CliResult part =
      run("features", {archive, cat, coffee, "--shard", "1/2", "-o", folder / "p{shard}.safetensors"});
  REQUIRE_MESSAGE(part.exit_code == 0, part.err);
  const auto files = [&](const char* name) {
    return nlohmann::json::parse(read_safetensors(folder / name).metadata.at("files"));
  };
  CHECK(files("w.safetensors").back() == cat);
  CHECK(files("w.safetensors").size() > 1);
  CHECK(files("p1.safetensors") == nlohmann::json({coffee}));
}

TEST_CASE("nearest finds an image itself first, in the order of the cosines") {
  const TemporaryDirectory folder;
  const std::string among = folder / "f.safetensors", rocket = data("images/rocket.jpg").string();
  REQUIRE(run("features", {coffee, cat, rocket, "--at", "classifier.pool,logits", "-o", among}).exit_code ==
          0);
  const CliResult result = run("nearest", {cat, rocket, "--among", among, "--at", "classifier.pool", "--topk",
                                           "7", "--format", "json"});
  REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  const auto results = nlohmann::json::parse(result.out)["results"];
  REQUIRE(results.size() == 2);
  const HostTensor rows = read_safetensors(among).at("classifier.pool").to_float32();
  const size_t channels = static_cast<size_t>(rows.dims[1]);
  const auto cosine = [&](size_t i, size_t j) {
    double ij = 0, ii = 0, jj = 0;
    for (size_t c = 0; c < channels; ++c) {
      const double a = rows.values[i * channels + c], b = rows.values[j * channels + c];
      ij += a * b, ii += a * a, jj += b * b;
    }
    return ij / std::sqrt(ii * jj);
  };
  for (size_t query = 0; query < 2; ++query) {
    const auto& found = results[query]["nearest"];
    REQUIRE(found.size() == 3);
    CHECK(found[0]["row"] == query + 1);
    CHECK(found[0]["file"] == (query == 0 ? cat : rocket));
    for (const auto& one : found)
      CHECK(one["similarity"].get<double>() ==
            doctest::Approx(cosine(query + 1, one["row"].get<size_t>())).epsilon(1e-5));
    CHECK(found[1]["similarity"].get<double>() >= found[2]["similarity"].get<double>());
  }
  const CliResult text = run("nearest", {cat, "--among", among, "--at", "logits", "--topk", "1"});
  CHECK(text.out == cat + "\n  1.0000  " + cat + "\n");

  check_error(run("nearest", {cat, "--among", among}), 2, {"holds 2 tensors", "--at"});
  check_error(run("nearest", {cat, "--among", among, "--at", "layers.1"}), 2, {"no tensor layers.1"});
  check_error(run_cli({"nearest", cat, "--device", "cpu", "--among", among, "--at", "logits"}), 2,
              {"features are of another model", "weights_sha256"});
  check_error(run("nearest", {cat, "--among", model / "io.safetensors", "--at", "logits"}), 2,
              {"does not say which model"});
  REQUIRE(run("features", {cat, "--at", "layers.1", "-o", folder / "map.safetensors"}).exit_code == 0);
  check_error(run("nearest", {cat, "--among", folder / "map.safetensors"}), 2, {"wanted (n, channels)"});

  // Rows without a direction are left out; a query without one has no answer.
  std::string bytes = read_file(among);
  const StateDict features = read_safetensors(among);
  const auto patch = [&](const std::string& name, const std::string& from, const std::string& to) {
    std::string changed = bytes;
    REQUIRE(changed.find(from) != std::string::npos);
    changed.replace(changed.find(from), from.size(), to);
    write_file(folder / name, changed);
    return folder / name;
  };
  const StoredTensor pool = features.at("classifier.pool");
  const std::string row(static_cast<const char*>(pool.data), channels * sizeof(float));
  const CliResult zero =
      run("nearest", {coffee, "--among", patch("zero.safetensors", row, std::string(row.size(), 0)), "--at",
                      "classifier.pool", "--format", "json"});
  CHECK(zero.exit_code == 0);
  CHECK(zero.err.find("1 of 3 rows are zero or not finite") != std::string::npos);
  CHECK(nlohmann::json::parse(zero.out)["results"][0]["nearest"].size() == 2);
  check_error(run("nearest", {cat, "--among", patch("names.safetensors", R"(\",\")", R"(\" \")"), "--at",
                              "classifier.pool"}),
              2, {"is not a list of 3 names"});
}

TEST_CASE("every device that is here gives the reference's backbone outputs and one image's maps") {
  const fs::path files = data("backbones/mmdet");
  const StateDict reference = read_safetensors(files / "io.safetensors");
  size_t devices = 0;
  for (const DeviceReport& report : list_devices()) {
    if (!report.usable) continue;
    ++devices;
    const std::string device = to_string(report.device);
    CAPTURE(device);
    const TemporaryDirectory folder;
    const CliResult result =
        run_cli({"features", "--config", files / "config.json", "--weights", files / "checkpoint.pth",
                 "--input-tensor", files / "io.safetensors", "--layout", "nhwc", "--device", device,
                 "--dtype", "float32", "-o", folder / "f.safetensors"});
    REQUIRE_MESSAGE(result.exit_code == 0, result.err);
    const StateDict saved = read_safetensors(folder / "f.safetensors");
    CHECK(saved.tensors.size() == 4);
    for (const auto& [name, tensor] : saved.tensors)
      CHECK(largest_difference(tensor.to_float32(), reference.at(name).to_float32()) < 2e-5);
    const auto maps = [&](const std::string& on) {
      const std::string file = folder / "m.safetensors";
      REQUIRE(run_cli({"look", cat, "--device", on, "--dtype", "float32", "--save-maps", file}).exit_code ==
              0);
      return read_safetensors(file).at("magnitude").to_float32();
    };
    CHECK(largest_difference(maps(device), maps("cpu")) < 1e-4);
  }
  CHECK(devices > 0);
}
