// safetensors: what is written is read back, what a file lies about is refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "kernels/error.h"
#include "kernels/half.h"
#include "lib/model/names.h"
#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"
#include "tests/testing.h"

namespace vmamba {
namespace {

namespace fs = std::filesystem;
using testing::data;
using testing::TemporaryDirectory;

template <class T>
StoredTensor stored(DType dtype, std::vector<int64_t> dims, const std::vector<T>& values) {
  const auto copy = std::make_shared<std::vector<T>>(values);
  return {.dtype = dtype, .dims = std::move(dims), .data = copy->data(), .owner = copy};
}

std::string bytes_of(const StoredTensor& tensor) {
  return {static_cast<const char*>(tensor.data),
          static_cast<size_t>(tensor.elements()) * size_of(tensor.dtype)};
}

// One of every dtype, widths mixed so that the writer has to order them.
StateDict every_dtype() {
  StateDict all;
  all.tensors.emplace_back("u8", stored<uint8_t>(DType::uint8, {3}, {0, 7, 255}));
  all.tensors.emplace_back("f16", stored<uint16_t>(DType::float16, {1, 3}, {0x3c00, 0xc000, 0x7bff}));
  all.tensors.emplace_back("f32", stored<float>(DType::float32, {2, 2}, {1.5f, -2.0f, 0.0f, 1e-30f}));
  all.tensors.emplace_back("bool", stored<uint8_t>(DType::boolean, {2}, {1, 0}));
  all.tensors.emplace_back("f64", stored<double>(DType::float64, {1}, {3.25}));
  all.tensors.emplace_back("bf16", stored<uint16_t>(DType::bfloat16, {2}, {0x3f80, 0xc000}));
  all.tensors.emplace_back("i8", stored<int8_t>(DType::int8, {2}, {-128, 127}));
  all.tensors.emplace_back("i16", stored<int16_t>(DType::int16, {1}, {-300}));
  all.tensors.emplace_back("i32", stored<int32_t>(DType::int32, {1}, {-70000}));
  all.tensors.emplace_back("i64 scalar", stored<int64_t>(DType::int64, {}, {-5'000'000'000}));
  all.tensors.emplace_back("none", stored<float>(DType::float32, {0, 4}, {}));
  all.metadata = {{"format", "pt"}, {"a \"quoted\" key", "ü"}};
  return all;
}

std::string with_header(const std::string& header, size_t data_size) {
  std::string file(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(file.data(), &size, 8);
  return file + header + std::string(data_size, '\x11');
}

// The message with which `bytes` are refused; empty: they are read.
std::string refusal(const std::string& path, const std::string& bytes) {
  fs::remove(path);  // replacing a file makes ext4 sync it
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  try {
    for (const auto& [name, tensor] : read_state_dict(path).tensors) tensor.to_float32();
  } catch (const InputError& error) {
    return error.what();
  }
  return {};
}

void check_refused(const std::string& message, const std::vector<std::string>& words) {
  REQUIRE_FALSE(message.empty());
  CHECK(message.find('\n') == std::string::npos);
  for (const std::string& word : words)
    CHECK_MESSAGE(message.find(word) != std::string::npos, message, " lacks ", word);
}

TEST_CASE("safetensors: every dtype is read back as written, in order, with metadata") {
  const TemporaryDirectory folder;
  const StateDict written = every_dtype();
  write_safetensors(folder / "a", written);
  const StateDict read = read_state_dict(folder / "a");
  REQUIRE(read.tensors.size() == written.tensors.size());
  CHECK(read.metadata == written.metadata);
  for (size_t i = 0; i < read.tensors.size(); ++i) {
    const auto& [name, tensor] = read.tensors[i];
    CAPTURE(name);
    CHECK(name == written.tensors[i].first);
    CHECK(tensor.dtype == written.tensors[i].second.dtype);
    CHECK(tensor.dims == written.tensors[i].second.dims);
    CHECK(bytes_of(tensor) == bytes_of(written.tensors[i].second));
  }
  CHECK(read.at("f16").to_float32().values == std::vector<float>{1.0f, -2.0f, 65504.0f});
  CHECK(read.at("bf16").to_float32().values == std::vector<float>{1.0f, -2.0f});
  CHECK(read.at("f64").to_float32().values == std::vector<float>{3.25f});
  CHECK(read.at("i8").to_float32().values == std::vector<float>{-128.0f, 127.0f});
  CHECK(read.at("i16").to_float32().values == std::vector<float>{-300.0f});
  CHECK(read.at("i32").to_float32().values == std::vector<float>{-70000.0f});
  CHECK(read.at("i64 scalar").to_float32().values == std::vector<float>{-5e9f});
  CHECK(read.at("u8").to_float32().values == std::vector<float>{0.0f, 7.0f, 255.0f});
  CHECK(read.at("bool").to_float32().values == std::vector<float>{1.0f, 0.0f});
  CHECK(read.at("none").to_float32().values.empty());

  // The same tensors give the same bytes; a file may be replaced by what was read from it.
  write_safetensors(folder / "b", read);
  CHECK(read_file(folder / "a") == read_file(folder / "b"));
  write_safetensors(folder / "b", read_state_dict(folder / "b"));
  CHECK(read_file(folder / "a") == read_file(folder / "b"));
  CHECK(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()) == 2);
}

TEST_CASE("safetensors: a missing tensor is asked for by name") {
  const StateDict all = every_dtype();
  CHECK(all.find("u9") == nullptr);
  CHECK_THROWS_WITH_AS(all.at("u9"), doctest::Contains("u9"), InputError);
}

TEST_CASE("safetensors: lies of the header are refused, each with its reason") {
  const TemporaryDirectory folder;
  const auto refuse = [&](const std::string& header, size_t data_size,
                          const std::vector<std::string>& words) {
    CAPTURE(header.substr(0, 200));
    check_refused(refusal(folder / "lie", with_header(header, data_size)), words);
  };
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  CHECK(refusal(folder / "true", with_header("{" + a + "}", 8)).empty());
  CHECK(refusal(folder / "spaces", with_header("{" + a + "}   ", 8)).empty());
  CHECK(refusal(folder / "none", with_header("{}", 0)).empty());

  refuse("{" + a + "," + a + "}", 8, {"a", "twice"});
  refuse("{" + a + "}", 7, {"tensor a", "[0, 8)", "7 bytes"});
  refuse("{" + a + "}", 9, {"1 bytes after the last tensor"});
  refuse(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8,
         {"a", "F32", "(3)", "12 bytes", "8"});
  refuse(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}})", 8, {"a", "[8, 4)"});
  refuse(
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
      6, {"b", "a", "overlap"});
  refuse(
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}})",
      10, {"b", "a", "gap"});
  refuse(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", 6, {"a", "gap"});
  refuse(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0,
         {"a", "larger than any"});
  refuse(R"({"a":{"dtype":"U8","shape":[9223372036854775807,3,0],"data_offsets":[0,0]}})", 0,
         {"a", "larger than any"});
  refuse(R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,0]}})", 0,
         {"shape of tensor a"});
  refuse(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}})", 0, {"shape of tensor a", "-1"});
  refuse(R"({"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,0]}})", 0, {"shape of tensor a", "1.5"});
  refuse(R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,0]}})", 0, {"shape of tensor a", "a list"});
  refuse(R"({"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", 1,
         {"tensor a", "F8_E4M3", "not read"});
  refuse(R"({"a":{"dtype":"F32","shape":[1]}})", 4, {"tensor a", "data_offsets"});
  refuse(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, {"tensor a", "shape"});
  refuse(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, {"tensor a", "dtype"});
  refuse(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, {"tensor a", "data_offsets"});
  refuse(R"({"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", 4,
         {"tensor a", "shape twice"});
  refuse(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})", 4, {"tensor a", "more"});
  refuse(R"({"a":{"dtype":{"x":1},"shape":[1],"data_offsets":[0,4]}})", 4,
         {"dtype of tensor a", "an object"});
  refuse(R"({"a":7})", 0, {"tensor a", "7"});
  refuse(R"({"__metadata__":{"k":1}})", 0, {"__metadata__", "1"});
  refuse(R"({"__metadata__":{"k":"1","k":"2"}})", 0, {"k", "twice"});
  refuse(R"({"a\nb":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, {"is no tensor's name"});
  refuse(R"({"a":NaN})", 0, {"byte"});
  refuse(R"({"a":1} x)", 0, {"tensor a"});
  refuse("{" + a + "} x", 8, {"byte"});
  refuse("[1]", 0, {"no JSON object"});
  refuse("{", 0, {"byte"});
  refuse("{\"\xff\xfe\":1}", 0, {"byte"});
  refuse(R"({"a":)" + std::string(2'000'000, '['), 0, {"tensor a", "a list"});
  const std::string eight = R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1)",
                    rest = R"(],"data_offsets":[0,1]}})";
  CHECK(refusal(folder / "f", with_header(eight + rest, 1)).empty());
  refuse(eight + ",1" + rest, 1, {"shape of tensor a", "more than 8"});
  // Of each a file of 1 MB would take many.
  std::string tensors, metadata;
  for (int i = 0; i <= 16'384; ++i) {
    tensors += fmt::format(R"({}"{}":{{"dtype":"U8","shape":[],"data_offsets":[0,0]}})", i ? "," : "", i);
    metadata += fmt::format(R"({}"{}":"")", i ? "," : "", i);
  }
  refuse("{" + tensors + "}", 0, {"more than 16384 tensors"});
  refuse(R"({"__metadata__":{)" + metadata + "}}", 0, {"more than 16384 tensors"});
}

TEST_CASE("safetensors: what is no file of weights is said in one line") {
  const TemporaryDirectory folder;
  const auto refuse = [&](const std::string& bytes, const std::vector<std::string>& words) {
    check_refused(refusal(folder / "file", bytes), words);
  };
  refuse("", {"empty"});
  refuse("abc", {"3 bytes"});
  refuse(std::string(100, '\0'), {"no JSON object"});
  refuse(std::string(100, '\xff'), {"neither a safetensors file"});
  refuse("<!DOCTYPE html><html>not found</html>", {"web page"});
  refuse("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", {"Git LFS", "git lfs pull"});
  std::string longer = with_header("{}", 0);
  longer[0] = 100;
  refuse(longer, {"cut off", "100 bytes"});
  CHECK_THROWS_WITH_AS(read_state_dict(folder.path()), doctest::Contains("is a folder"), InputError);
  CHECK_THROWS_WITH_AS(read_state_dict(folder / "nothing"), doctest::Contains("No such file"), InputError);
  CHECK_THROWS_WITH_AS(read_state_dict("/dev/null"), doctest::Contains("not a regular file"), InputError);
  // What else people give for weights.
  const std::string rest(100, '\0');
  refuse("\x89HDF\r\n\x1a\n" + rest, {"HDF5", "torch.save"});
  refuse("GGUF\x03" + rest, {"GGUF", "torch.save"});
  refuse("\x93NUMPY\x01" + rest, {"NumPy"});
  refuse("\x08\x08\x12\x07pytorch" + rest, {"ONNX", "torch.save"});
  refuse("\x1f\x8b\x08" + rest, {"gzip", "gunzip"});
  refuse("\x89PNG\r\n" + rest, {"an image"});
  refuse("{\"depths\": [1], \"dims\": 8}", {"is JSON", "--config"});
  refuse("\n {\n}        ", {"is JSON", "--config"});
  refuse("MODEL:\n  TYPE: vssm\n", {"YAML", "migrate-config"});
  // No number of a header that is none.
  for (const char* bytes : {"\xff\xff\xff\xff\xff\xff\xff\xff{}", "any text that is no model"}) {
    const std::string message = refusal(folder / "file", bytes);
    CHECK(message.find("neither a safetensors file nor one of torch.save") != std::string::npos);
    CHECK(message.find_first_of("0123456789", message.rfind('/')) == std::string::npos);
  }
}

TEST_CASE("safetensors in several files are read by their index, whose files lie beside it") {
  const TemporaryDirectory folder;
  StateDict a, b;
  a.add("one", HostTensor{{2}, {1, 2}});
  a.add("unused", HostTensor{{1}, {9}});
  b.add("two", HostTensor{{1}, {3}});
  write_safetensors(folder / "a.safetensors", a);
  write_safetensors(folder / "b.safetensors", b);
  const auto read = [&](const std::string& map) {
    return refusal(folder / "model.safetensors.index.json", R"({"metadata": {}, "weight_map": )" + map + "}");
  };
  CHECK(read(R"({"two": "b.safetensors", "one": "a.safetensors"})").empty());
  const StateDict all = read_state_dict(folder / "model.safetensors.index.json");
  REQUIRE(all.tensors.size() == 2);
  CHECK(all.tensors[0].first == "two");
  CHECK(all.at("one").to_float32().values == std::vector<float>{1, 2});
  check_refused(read(R"({"two": "a.safetensors"})"), {"a.safetensors has no tensor two"});
  for (const char* file :
       {"../a.safetensors", "/etc/passwd", "x/a.safetensors", "..", "", "a\\\\b", "a\\u0000b"}) {
    CAPTURE(file);
    check_refused(read(std::string(R"({"one": ")") + file + "\"}"), {"beside the index"});
  }
  check_refused(read(R"({"one": "none.safetensors"})"), {"none.safetensors", "No such file"});
  check_refused(read(R"({"one": "model.safetensors.index.json"})"), {"an index of weights within another"});
  check_refused(refusal(folder / "evil.json", R"({"weight_map": {"one": "evil.json"}})"),
                {"an index of weights within another"});
  check_refused(read(R"({"one": 5})"), {"the name of a file"});
  check_refused(read("[]"), {"weight_map"});
  check_refused(read(R"({"one": {"weight_map": {}}})"), {"the name of a file"});
}

TEST_CASE("a prefix chooses tensors, and goes") {
  const TemporaryDirectory folder;
  StateDict both;
  both.add("student.w", HostTensor{{1}, {1}});
  both.add("teacher.w", HostTensor{{1}, {2}});
  both.add("teachers", HostTensor{{1}, {3}});
  write_safetensors(folder / "a.safetensors", both);
  for (const char* prefix : {"teacher", "teacher."}) {
    const StateDict one = read_state_dict(folder / "a.safetensors", "", prefix);
    REQUIRE(one.tensors.size() == 1);
    CHECK(one.at("w").to_float32().values == std::vector<float>{2});
  }
  CHECK_THROWS_WITH_AS(read_state_dict(folder / "a.safetensors", "", "tea"),
                       doctest::Contains("begin with student, teacher, teachers"), InputError);
}

TEST_CASE("safetensors: cut anywhere or with any bit flipped, a file is refused or read, never more") {
  const TemporaryDirectory folder;
  write_safetensors(folder / "whole", every_dtype());
  const std::string whole = read_file(folder / "whole");
  for (size_t size = 0; size < whole.size(); ++size) {
    CAPTURE(size);
    CHECK_FALSE(refusal(folder / "cut", whole.substr(0, size)).empty());
  }
  size_t refused = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      const std::string message = refusal(folder / "flipped", flipped);
      CHECK(message.find('\n') == std::string::npos);
      refused += message.empty() ? 0 : 1;
    }
  }
  CHECK(refused > whole.size() * 8 / 2);  // the rest fell on data, names, metadata
}

TEST_CASE("safetensors: nothing stays behind where a file can't be written") {
  const TemporaryDirectory folder;
  CHECK_THROWS_AS(write_safetensors(folder / "missing/file", every_dtype()), InputError);
  CHECK_THROWS_AS(write_safetensors(folder.path(), every_dtype()), InputError);
  CHECK(fs::is_empty(folder.path()));
}

TEST_CASE("conversion: floating tensors to another dtype, rounded to nearest even; the rest as they are") {
  StateDict all = every_dtype();
  all.where = "somewhere";
  all.tensors.emplace_back("ties",
                           stored<float>(DType::float32, {3}, {1.00048828125f, 1.00146484375f, 65519.0f}));
  const StateDict half = converted(all, DType::float16);
  REQUIRE(half.tensors.size() == all.tensors.size());
  for (const auto& [name, tensor] : half.tensors) {
    CAPTURE(name);
    const bool floating = name[0] == 'f' || name == "bf16" || name == "none" || name == "ties";
    CHECK(tensor.dtype == (floating ? DType::float16 : all.at(name).dtype));
    CHECK(tensor.dims == all.at(name).dims);
  }
  CHECK(half.at("ties").to_float32().values == std::vector<float>{1.0f, 1.001953125f, 65504.0f});
  CHECK(converted(half, DType::float32).at("f64").to_float32().values == std::vector<float>{3.25f});
  CHECK(converted(all, DType::bfloat16).at("ties").to_float32().values ==
        std::vector<float>{1.0f, 1.0f, 65536.0f});

  all.tensors.emplace_back("huge", stored<float>(DType::float32, {2}, {1.0f, 65520.0f}));
  CHECK_THROWS_WITH_AS(
      converted(all, DType::float16),
      doctest::Contains("65520 of tensor huge is beyond float16: choose float32, bfloat16 or float64"),
      InputError);
  all.tensors.back().second = stored<float>(DType::float32, {1}, {0x1.fffffep127f});
  CHECK_THROWS_WITH_AS(converted(all, DType::bfloat16),
                       doctest::Contains("of tensor huge is beyond bfloat16: choose float32 or float64"),
                       InputError);
  all.tensors.back().second = stored<double>(DType::float64, {1}, {1e300});
  CHECK_THROWS_WITH_AS(converted(all, DType::float32), doctest::Contains("tensor huge"), InputError);
  all.tensors.back().second =
      stored<float>(DType::float32, {2}, {INFINITY, NAN});  // these stay what they are
  const HostTensor kept = converted(all, DType::float16).at("huge").to_float32();
  CHECK(std::isinf(kept.values[0]));
  CHECK(std::isnan(kept.values[1]));
}

TEST_CASE("old names are brought up to date") {
  StateDict old;
  const auto add = [&](const std::string& name) {
    old.tensors.emplace_back(name, stored<float>(DType::float32, {1}, {1}));
  };
  const std::vector<std::pair<std::string, std::string>> names{
      {"patch_embed.proj.weight", "patch_embed.0.weight"},
      {"patch_embed.norm.bias", "patch_embed.2.bias"},
      {"layers.10.blocks.3.ln_1.weight", "layers.10.blocks.3.norm.weight"},
      {"layers.0.blocks.0.self_attention.A_logs", "layers.0.blocks.0.op.A_logs"},
      {"layers.0.blocks.1.self_attention.x_proj.weight", "layers.0.blocks.1.op.x_proj_weight"},
      {"layers.0.blocks.1.op.dt_projs.weight", "layers.0.blocks.1.op.dt_projs_weight"},
      {"layers.0.blocks.1.op.out_norm.weight", "layers.0.blocks.1.op.out_norm.weight"},
      {"layers.0.downsample.norm.weight", "layers.0.downsample.norm.weight"},
      {"norm.weight", "classifier.norm.weight"},
      {"head.bias", "classifier.head.bias"},
      {"classifier.head.weight", "classifier.head.weight"},
      {"elsewhere.norm.weight", "elsewhere.norm.weight"},
  };
  for (const auto& [before, after] : names) add(before);
  add("layers.0.blocks.0.norm.num_batches_tracked");
  const StateDict current = with_current_names(old);
  REQUIRE(current.tensors.size() == names.size());
  for (size_t i = 0; i < names.size(); ++i) CHECK(current.tensors[i].first == names[i].second);

  for (auto& [name, tensor] : old.tensors) name.insert(0, "module.");  // DataParallel
  const StateDict unwrapped = with_current_names(old);
  REQUIRE(unwrapped.tensors.size() == names.size());
  for (size_t i = 0; i < names.size(); ++i) CHECK(unwrapped.tensors[i].first == names[i].second);

  StateDict one_file;  // as the class in one file saves it
  const auto add_shaped = [&](const std::string& name, std::vector<int64_t> dims) {
    one_file.tensors.emplace_back(name, StoredTensor{.dtype = DType::float32, .dims = std::move(dims)});
  };
  add_shaped("layers.0.blocks.0.op.x_proj.weight", {12, 32});
  add_shaped("layers.0.blocks.0.op.dt_projs.weight", {128, 1});
  add_shaped("layers.0.downsample.1.bias", {64});
  add_shaped("layers.0.downsample.2.weight", {32, 64});
  one_file = with_current_names(one_file);
  CHECK(one_file.at("layers.0.blocks.0.op.x_proj_weight").dims == std::vector<int64_t>{4, 3, 32});
  CHECK(one_file.at("layers.0.blocks.0.op.dt_projs_weight").dims == std::vector<int64_t>{4, 32, 1});
  CHECK(one_file.find("layers.0.downsample.norm.bias") != nullptr);
  CHECK(one_file.find("layers.0.downsample.reduction.weight") != nullptr);

  StateDict both;
  both.where = "file";
  both.tensors = {old.tensors[0], old.tensors[0]};
  both.tensors[0].first = "head.weight";
  both.tensors[1].first = "classifier.head.weight";
  CHECK_THROWS_WITH_AS(with_current_names(both), doctest::Contains("head.weight and classifier.head.weight"),
                       InputError);
}

}  // namespace
}  // namespace vmamba
