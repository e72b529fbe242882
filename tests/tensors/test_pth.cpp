// torch.save's files: each loads to the bytes that PyTorch gives; hostile ones are refused and nothing is
// run.
#include <doctest/doctest.h>
#include <zip.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include "kernels/error.h"
#include "lib/model/names.h"
#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"
#include "tests/testing.h"

namespace vmamba {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
using testing::data;
using testing::TemporaryDirectory;

std::string bytes_of(const StoredTensor& tensor) {
  return {static_cast<const char*>(tensor.data),
          static_cast<size_t>(tensor.elements()) * size_of(tensor.dtype)};
}

void check_same(const StateDict& got, const StateDict& wanted) {
  REQUIRE(got.tensors.size() == wanted.tensors.size());
  for (size_t i = 0; i < got.tensors.size(); ++i) {
    CAPTURE(wanted.tensors[i].first);
    CHECK(got.tensors[i].first == wanted.tensors[i].first);
    CHECK(got.tensors[i].second.dtype == wanted.tensors[i].second.dtype);
    CHECK(got.tensors[i].second.dims == wanted.tensors[i].second.dims);
    CHECK(bytes_of(got.tensors[i].second) == bytes_of(wanted.tensors[i].second));
  }
}

// --- Pickles and archives by hand.

using Entries = std::vector<std::pair<std::string, std::string>>;

void write_zip(const std::string& path, const Entries& entries, zip_int32_t method = ZIP_CM_STORE) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* file =
      zip_source_buffer_create(nullptr, 0, 0, &error);  // in memory: zip_close on a file syncs the disk
  zip_t* zip = zip_open_from_source(file, ZIP_TRUNCATE, &error);
  REQUIRE(zip != nullptr);
  zip_source_keep(file);
  for (const auto& [name, contents] : entries) {
    zip_source_t* source = zip_source_buffer(zip, contents.data(), contents.size(), 0);
    const zip_int64_t index = zip_file_add(zip, name.c_str(), source, ZIP_FL_ENC_UTF_8);
    REQUIRE(index >= 0);
    REQUIRE(zip_set_file_compression(zip, static_cast<zip_uint64_t>(index), method, 0) == 0);
  }
  REQUIRE(zip_close(zip) == 0);
  REQUIRE(zip_source_open(file) == 0);
  REQUIRE(zip_source_seek(file, 0, SEEK_END) == 0);
  std::string bytes(static_cast<size_t>(zip_source_tell(file)), '\0');
  REQUIRE(zip_source_seek(file, 0, SEEK_SET) == 0);
  REQUIRE(zip_source_read(file, bytes.data(), bytes.size()) == static_cast<zip_int64_t>(bytes.size()));
  zip_source_close(file);
  zip_source_free(file);
  zip_error_fini(&error);
  fs::remove(path);  // replacing a file makes ext4 sync it
  write_file(path, bytes);
}

std::string little_endian(uint64_t value, size_t width) {
  std::string bytes;
  for (size_t i = 0; i < width; ++i) bytes += static_cast<char>(value >> (8 * i));
  return bytes;
}
std::string integer(int64_t value) {
  return "\x8a\x08"s + little_endian(static_cast<uint64_t>(value), 8);
}
std::string text(const std::string& value) {
  return "X"s + little_endian(value.size(), 4) + value;
}
std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
std::string tuple(const std::vector<std::string>& items) {
  std::string pickle = "(";
  for (const std::string& item : items) pickle += item;
  return pickle + "t";
}
std::string integers(const std::vector<int64_t>& values) {
  std::vector<std::string> items;
  for (const int64_t value : values) items.push_back(integer(value));
  return tuple(items);
}
std::string storage(int64_t elements, const std::string& key = "0",
                    const std::string& type = "FloatStorage") {
  return tuple({text("storage"), global("torch", type), text(key), text("cuda:0"), integer(elements)}) + "Q";
}
std::string tensor(int64_t elements, int64_t offset, const std::vector<int64_t>& dims,
                   const std::vector<int64_t>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple({storage(elements), integer(offset), integers(dims), integers(strides), "\x89",
                global("collections", "OrderedDict") + ")R"}) +
         "R";
}
std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string pickle = "}(";
  for (const auto& [name, value] : items) pickle += text(name) + value;
  return pickle + "u";
}
std::string pickle(const std::string& value) {
  return "\x80\x02"s + value + ".";
}

std::string floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}
Entries archive(const std::string& value, const std::string& storage0 = floats({1, 2, 3, 4, 5, 6})) {
  return {{"any name/data.pkl", pickle(value)}, {"any name/data/0", storage0}};
}

// The message with which the archive is refused; empty: it is read.
std::string refusal(const std::string& path, const std::string& key = "") {
  try {
    for (const auto& [name, found] : read_state_dict(path, key).tensors) found.to_float32();
  } catch (const InputError& error) {
    return error.what();
  }
  return {};
}
std::string refusal_of(const Entries& entries, zip_int32_t method = ZIP_CM_STORE) {
  const TemporaryDirectory folder;
  write_zip(folder / "file.pth", entries, method);
  return refusal(folder / "file.pth");
}
void check_refused(const std::string& message, const std::vector<std::string>& words) {
  REQUIRE_FALSE(message.empty());
  CHECK(message.find('\n') == std::string::npos);
  for (const std::string& word : words)
    CHECK_MESSAGE(message.find(word) != std::string::npos, message, " lacks ", word);
}

TEST_CASE("every file of torch.save loads to PyTorch's own bytes") {
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(data("pth"))) {
    const std::string name = entry.path().stem().string();
    const fs::path wanted = data("pth/" + name + ".safetensors"),
                   ema = data("pth/" + name + ".ema.safetensors");
    if (entry.path().extension() != ".pth" || !fs::exists(wanted)) continue;
    CAPTURE(name);
    const bool both = fs::exists(ema);
    // A parallel model's `module.` is part of the names in the file; with_current_names takes it off.
    const auto read = [&](const std::string& key) {
      return with_current_names(read_state_dict(entry.path(), key));
    };
    check_same(read(""), with_current_names(read_safetensors(both ? ema : wanted)));
    if (both) {
      check_same(read("model"), with_current_names(read_safetensors(wanted)));
      check_same(read("model_ema"), with_current_names(read_safetensors(ema)));
    }
    ++files;
  }
  CHECK(files >= 25);
}

TEST_CASE("files that PyTorch would not read are refused") {
  check_refused(refusal(data("pth/broken_cut.pth")), {"zip"});
  check_refused(refusal(data("pth/broken_missing_storage.pth")), {"storage 2"});
  check_refused(refusal(data("pth/broken_too_large.pth")),
                {"classifier.head.weight", "(5, 5)", "20 elements"});
  check_refused(refusal(data("pth/broken_not_a_dict.pth")), {"bare pickle"});
  const TemporaryDirectory folder;
  write_file(folder / "one_byte.pth", "\x80");
  check_refused(refusal(folder / "one_byte.pth"), {"bare pickle"});
  // The format before 1.6, cut anywhere.
  for (const char* name : {"legacy", "legacy_checkpoint"}) {
    const std::string whole = read_file(data(std::string("pth/") + name + ".pth"));
    for (size_t size = 0; size < whole.size(); ++size) {
      CAPTURE(size);
      fs::remove(folder / "cut.pth");
      write_file(folder / "cut.pth", whole.substr(0, size));
      const std::string message = refusal(folder / "cut.pth", "");
      CHECK_FALSE(message.empty());
      CHECK(message.find('\n') == std::string::npos);
    }
  }
}

TEST_CASE("tensors with PyTorch's neg bit are negated; conjugates are refused") {
  const TemporaryDirectory folder;
  const auto lazy = [](const std::string& storage_of, const std::string& metadata) {
    return global("torch._utils", "_rebuild_tensor_v2") +
           tuple({storage_of, integer(1), integers({2}), integers({1}), "\x89",
                  global("collections", "OrderedDict") + ")R", metadata}) +
           "R";
  };
  const std::string yes = "\x88", no = "\x89";
  write_zip(folder / "a.pth", archive(dict({{"negative", lazy(storage(6), dict({{"neg", yes}}))},
                                            {"plain", lazy(storage(6), dict({{"neg", no}, {"conj", no}}))},
                                            {"none", lazy(storage(6), "N")}})));
  const StateDict got = read_state_dict(folder / "a.pth");
  CHECK(got.at("negative").to_float32().values == std::vector<float>{-2, -3});
  CHECK(got.at("plain").to_float32().values == std::vector<float>{2, 3});
  CHECK(got.at("none").to_float32().values == std::vector<float>{2, 3});
  Entries longs = archive(dict({{"w", lazy(storage(3, "0", "LongStorage"), dict({{"neg", yes}}))}}),
                          little_endian(1, 8) + little_endian(2, 8) + little_endian(uint64_t(-7), 8));
  write_zip(folder / "longs.pth", longs);
  CHECK(read_state_dict(folder / "longs.pth").at("w").to_float32().values == std::vector<float>{-2, 7});
  check_refused(refusal_of(archive(dict({{"w", lazy(storage(6), dict({{"conj", yes}}))}}))),
                {"tensor w", "complex conjugates"});
}

TEST_CASE("what a pickle makes is bounded by its own bytes") {
  const auto put = [](char slot) { return "q"s + slot + "0"; };  // into the memo, off the stack
  const auto get = [](char slot) { return "h"s + slot; };
  // One list of pairs given to many OrderedDicts.
  std::string many =
      "\x80\x02"s + global("collections", "OrderedDict") + put(0) + "K\x01K\x01\x86" + put(2) + "](";
  for (int i = 0; i < 5000; ++i) many += get(2);
  many += "e\x85" + put(3) + "(";
  for (int i = 0; i < 9000; ++i) many += get(0) + get(3) + "R";
  check_refused(refusal_of({{"x/data.pkl", many + "l."}}), {"more values than"});
  // One shape of 64 dimensions given to many tensors.
  std::string wide = "\x80\x02"s + global("torch._utils", "_rebuild_tensor_v2") + put(0) + storage(6) +
                     put(1) + integers(std::vector<int64_t>(64, 1)) + put(2) + "}(";
  for (int i = 0; i < 1000; ++i)
    wide += text(std::to_string(i)) + get(0) + "(" + get(1) + "K\x01" + get(2) + get(2) + "tR";
  check_refused(refusal_of({{"x/data.pkl", wide + "u."}, {"x/data/0", floats({1, 2, 3, 4, 5, 6})}}),
                {"at most 8 dimensions"});
}

TEST_CASE("an archive whose sums were left out is read") {
  const TemporaryDirectory folder;
  write_zip(folder / "a.pth", archive(dict({{"w", tensor(6, 0, {6}, {1})}})));
  std::string bytes = read_file(folder / "a.pth");
  for (const auto& [header, place] : {std::pair("PK\x01\x02", 16), std::pair("PK\x03\x04", 14)}) {
    for (size_t at = bytes.find(header); at != std::string::npos; at = bytes.find(header, at + 4)) {
      bytes.replace(at + size_t(place), 4, 4, '\0');
    }
  }
  write_file(folder / "b.pth", bytes);
  CHECK(read_state_dict(folder / "b.pth").at("w").to_float32().values ==
        std::vector<float>{1, 2, 3, 4, 5, 6});
}

TEST_CASE("a handmade archive: views, shared storages, either byte order, any file's name inside") {
  const TemporaryDirectory folder;
  const std::string value = dict({{"dense", tensor(6, 0, {2, 3}, {3, 1})},
                                  {"transposed", tensor(6, 0, {3, 2}, {1, 3})},
                                  {"offset", tensor(6, 4, {2}, {1})},
                                  {"one", tensor(6, 5, {1, 1}, {int64_t{1} << 62, 7})},
                                  {"repeated", tensor(6, 2, {2, 2}, {0, 1})},
                                  {"empty", tensor(6, 0, {3, 0}, {1, 1})},
                                  {"scalar", tensor(6, 3, {}, {})},
                                  {"twice", tensor(6, 0, {1}, {1})},
                                  {"twice", tensor(6, 1, {1}, {1})},
                                  {"number", integer(3)}});
  const std::vector<std::pair<std::string, std::vector<float>>> wanted{{"dense", {1, 2, 3, 4, 5, 6}},
                                                                       {"transposed", {1, 4, 2, 5, 3, 6}},
                                                                       {"offset", {5, 6}},
                                                                       {"one", {6}},
                                                                       {"repeated", {3, 4, 3, 4}},
                                                                       {"empty", {}},
                                                                       {"scalar", {4}},
                                                                       {"twice", {2}}};
  for (const bool big : {false, true}) {
    std::string stored = floats({1, 2, 3, 4, 5, 6});
    if (big) {
      for (size_t i = 0; i < stored.size(); i += 4)
        std::reverse(stored.begin() + long(i), stored.begin() + long(i) + 4);
    }
    Entries entries = archive(value, stored);
    entries.emplace_back("any name/byteorder", big ? "big" : "little");
    write_zip(folder / "a.pth", entries);
    const StateDict got = read_state_dict(folder / "a.pth");
    REQUIRE(got.tensors.size() == wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      CHECK(got.tensors[i].first == wanted[i].first);
      CHECK(got.tensors[i].second.to_float32().values == wanted[i].second);
    }
  }
  Entries entries = archive(value);
  entries.emplace_back("any name/byteorder", "middle");
  check_refused(refusal_of(entries), {"byte order", "middle"});
}

TEST_CASE("which dict of a checkpoint is read") {
  const TemporaryDirectory folder;
  const auto weights = [&](int64_t offset) { return dict({{"w", tensor(6, offset, {1}, {1})}}); };
  write_zip(folder / "a.pth", archive(dict({{"state_dict", weights(0)},
                                            {"model", weights(1)},
                                            {"model_ema", weights(2)},
                                            {"other", weights(3)},
                                            {"epoch", integer(9)}})));
  const auto first = [&](const std::string& key) {
    return read_state_dict(folder / "a.pth", key).at("w").to_float32().values.at(0);
  };
  CHECK(first("") == 3);
  CHECK(first("model_ema") == 3);
  CHECK(first("model") == 2);
  CHECK(first("state_dict") == 1);
  CHECK(first("other") == 4);
  CHECK_THROWS_WITH_AS(first("nothing"),
                       doctest::Contains("\"state_dict\", \"model\", \"model_ema\", \"other\""), InputError);
  CHECK_THROWS_WITH_AS(first("epoch"), doctest::Contains("epoch"), InputError);

  write_zip(folder / "b.pth", archive(dict({{"model_ema", "N"}, {"model", weights(1)}})));
  CHECK(read_state_dict(folder / "b.pth").at("w").to_float32().values.at(0) == 2);
  check_refused(refusal_of(archive("]")), {"no state dict"});
  check_refused(refusal_of(archive(dict({{"a", "N"}, {"b", "]"}}))), {"no state dict"});

  // Averaged weights first, whatever their key; the one dict of tensors under any.
  const auto taken = [&](const std::vector<std::pair<std::string, std::string>>& items,
                         const std::string& key = "") {
    write_zip(folder / "c.pth", archive(dict(items)));
    return read_state_dict(folder / "c.pth", key).at("w").to_float32().values.at(0);
  };
  for (const char* key : {"state_dict_ema", "ema", "ema_state_dict", "params_ema", "model_ema"})
    CHECK(taken({{"state_dict", weights(0)}, {key, weights(1)}, {"model", weights(2)}}) == 2);
  for (const char* key : {"model_no_ema", "non_ema", "params_without_ema"})
    CHECK(taken({{key, weights(0)}, {"model", weights(1)}}) == 2);
  // mmengine saves the average as state_dict.
  const std::string counted = dict({{"steps", tensor(6, 0, {1}, {1})}, {"w", tensor(6, 5, {1}, {1})}});
  const std::pair<std::string, std::string> average{"state_dict", weights(1)},
      trained{"ema_state_dict", weights(2)};
  CHECK(taken({{"meta", dict({{"mmengine_version", text("0.10.4")}})}, average, trained}) == 2);
  CHECK(taken({average, {"message_hub", dict({})}, trained}) == 2);
  CHECK(taken({average, {"ema_state_dict", counted}}) == 2);
  CHECK(taken({average, {"ema_state_dict", counted}}, "ema_state_dict") == 6);
  CHECK(taken({{"runs", dict({average, {"ema_state_dict", counted}})}}, "runs") == 2);
  CHECK(taken({{"meta", dict({{"epoch", integer(3)}})}, average, trained}) == 3);
  CHECK(taken({{"weights", weights(1)}}) == 2);
  CHECK(taken({{"epoch", "N"}, {"ema", dict({{"module", weights(4)}})}}) == 5);
  CHECK(taken({{"model_state_dict", weights(1)}, {"other", weights(2)}}) == 2);
  // A module's tensors have dotted names: what has none stands beside them.
  const std::string named = dict({{"a.b", tensor(6, 3, {1}, {1})}, {"w", tensor(6, 4, {1}, {1})}});
  CHECK(taken({{"best", named}, {"loss", tensor(6, 0, {1}, {1})}, {"optimizer", dict({{"s", named}})}}) == 5);
  CHECK_THROWS_WITH_AS(taken({{"one", weights(0)}, {"two", weights(1)}}),
                       doctest::Contains("several dicts of tensors: \"one\", \"two\"; --key chooses"),
                       InputError);
  // Paths: into dicts, lists, attributes, and keys with dots.
  const std::string object = global("a", "B") + ")\x81" + dict({{"best", weights(3)}}) + "b";
  const std::vector<std::pair<std::string, std::string>> deep{
      {"x", dict({{"y.z", weights(1)}, {"y", dict({{"v", weights(2)}})}})},
      {"list", "](" + weights(4) + weights(5) + "e"},
      {"trainer", object}};
  CHECK(taken(deep, "x.y.z") == 2);
  CHECK(taken(deep, "x.y.v") == 3);
  CHECK(taken(deep, "x.y") == 3);
  CHECK(taken(deep, "list.1") == 6);
  CHECK(taken(deep, "trainer.best") == 4);
  CHECK_THROWS_WITH_AS(taken(deep, "list.2"),
                       doctest::Contains("no dict of tensors under the key \"list.2\""), InputError);
  // A module that was pickled whole.
  const std::string module =
      global("net", "VSSM") + ")\x81" + dict({{"_parameters", weights(0)}, {"_modules", "}"}}) + "b";
  for (const std::string& value : {module, dict({{"model", module}, {"epoch", "N"}})})
    check_refused(refusal_of(archive(value)), {"a whole pickled module (net.VSSM", "state_dict()"});
  check_refused(refusal_of({{"a/weights.npy", "x"}}), {"NumPy arrays", "torch.save"});
}

TEST_CASE("plain objects beside the weights are stepped over") {
  const std::string node =
      global("yacs.config", "CfgNode") + ")\x81" + "("s + text("KEY") + text("value") + "u" + "}b";
  const std::string scalar =
      global("numpy.core.multiarray", "scalar") +
      tuple({global("numpy", "dtype") + tuple({text("f8"), "\x89", "\x88"}) + "R" +
                 tuple({integer(3), text("<"), "N", "N", "N", integer(-1), integer(-1), integer(0)}) + "b",
             "C\x08"s + std::string(8, '\0')}) +
      "R";
  const std::string date = global("datetime", "date") +
                           tuple({global("_codecs", "encode") + tuple({text("x"), text("latin1")}) + "R"}) +
                           "R";
  const std::string enumeration =
      global("torchvision.transforms.functional", "InterpolationMode") + tuple({text("bicubic")}) + "R";
  const std::string omegaconf = global("omegaconf.dictconfig", "DictConfig") + ")\x81" +
                                dict({{"_content", dict({{"a", global("typing", "Any")}})}}) + "b";
  const std::string history =
      global("mmengine.logging.history_buffer", "HistoryBuffer") + ")\x81" +
      dict({{"mean", global("__builtin__", "getattr") + tuple({global("a", "B"), text("mean")}) + "R"}}) +
      "b";
  const std::string float8 =
      global("torch._utils", "_rebuild_tensor_v3") +
      tuple({storage(2, "9", "storage.UntypedStorage"), integer(0), integers({2}), integers({1}), "\x89",
             global("collections", "OrderedDict") + ")R", global("torch", "float8_e4m3fn")}) +
      "R";
  const std::string sparse = global("torch._utils", "_rebuild_sparse_tensor") + tuple({"N", "N"}) + "R";
  const std::string path = global("pathlib", "PosixPath") + tuple({text("a"), text("b")}) + "R";
  const TemporaryDirectory folder;
  write_zip(folder / "a.pth", archive(dict({{"config", node},
                                            {"best", scalar},
                                            {"output", path},
                                            {"big", "\x8a\x0c"s + std::string(12, '\x7f')},
                                            {"bytes", "B"s + little_endian(3, 4) + "abc"},
                                            {"set", "\x8f(K\x01K\x02\x90"},
                                            {"date", date},
                                            {"enum", enumeration},
                                            {"config", omegaconf},
                                            {"history", history},
                                            {"dtype", global("torch", "bool")},
                                            {"float8", float8},
                                            {"sparse", sparse},
                                            {"model", dict({{"w", tensor(6, 0, {2, 3}, {3, 1})}})}})));
  CHECK(read_state_dict(folder / "a.pth").at("w").to_float32().values ==
        std::vector<float>{1, 2, 3, 4, 5, 6});
}

TEST_CASE("nothing that a pickle names is called") {
  const TemporaryDirectory folder;
  const std::string proof = folder / "executed";
  const std::string command = tuple({text("touch " + proof)});
  const auto read_beside = [&](const std::string& value) {
    write_zip(folder / "a.pth", archive(dict({{"w", tensor(6, 0, {6}, {1})}, {"x", value}})));
    const StateDict got = read_state_dict(folder / "a.pth");
    REQUIRE(got.tensors.size() == 1);
    CHECK(got.at("w").to_float32().values == std::vector<float>{1, 2, 3, 4, 5, 6});
  };
  for (const auto& [module, name] :
       std::vector<std::pair<std::string, std::string>>{{"os", "system"},
                                                        {"posix", "system"},
                                                        {"subprocess", "Popen"},
                                                        {"builtins", "eval"},
                                                        {"torch.storage", "_load_from_bytes"},
                                                        {"torch", "FloatStorage.from_file"},
                                                        {"collections.OrderedDict", ""},
                                                        {"a\x1b[2J", "b"}}) {
    CAPTURE(module);
    read_beside(global(module, name) + command + "R");
    read_beside(global(module, name) + command + "\x81");
    read_beside(text(module) + text(name) + "\x93" + command + "R");  // by STACK_GLOBAL
    read_beside("("s + global(module, name) + text("touch " + proof) + "o");
    read_beside("("s + text("touch " + proof) + "i" + module + "\n" + name + "\n");
  }
  // The result of one call called; a tensor called; a class of storages called; a name from outside.
  read_beside(global("pathlib", "PosixPath") + ")R" + command + "R");
  read_beside(tensor(6, 0, {6}, {1}) + ")R");
  read_beside(global("torch", "FloatStorage") + ")R");
  read_beside("Pid\n");
  read_beside(text("anything") + "Q");
  CHECK_FALSE(fs::exists(proof));
  check_refused(refusal_of(archive(dict({{"w", "\x82\x01"}}))),
                {"operation 0x82"});  // the extension registry
  for (const char* name : {"unsafe_call", "unsafe_call_legacy"}) {
    fs::remove("/tmp/vmamba_unsafe_pth");
    CHECK(refusal(data(std::string("pth/") + name + ".pth")).empty());
    CHECK_FALSE(fs::exists("/tmp/vmamba_unsafe_pth"));
  }
}

TEST_CASE(
    "a dict of tensors may be of another kind; a tensor of one that is not read is told when it is asked for") {
  const TemporaryDirectory folder;
  const std::string odd = global("torch._utils", "_rebuild_qtensor") + "(tR";
  const std::string kind = global("collections", "defaultdict") + global("builtins", "list") + "\x85R(" +
                           text("a.w") + tensor(6, 1, {1}, {1}) + text("b") + odd + "u";
  const std::string untyped =
      global("torch._utils", "_rebuild_tensor_v3") +
      tuple({tuple({text("storage"), global("torch.storage", "UntypedStorage"), text("0"), text("cpu"),
                    integer(24)}) +
                 "Q",
             integer(2), integers({2}), integers({1}), "\x89", "N", global("torch", "float32")}) +
      "R";
  write_zip(folder / "a.pth", archive(dict({{"model", kind}})));
  const StateDict got = read_state_dict(folder / "a.pth");
  REQUIRE(got.tensors.size() == 2);
  CHECK(got.at("a.w").to_float32().values == std::vector<float>{2});
  CHECK_THROWS_WITH_AS(got.at("b").to_float32(), doctest::Contains("tensor b: _rebuild_qtensor"), InputError);
  CHECK_THROWS_WITH_AS(write_safetensors(folder / "b", got), doctest::Contains("tensor b"), InputError);
  write_zip(folder / "v3.pth", archive(dict({{"w", untyped}})));
  CHECK(read_state_dict(folder / "v3.pth").at("w").to_float32().values == std::vector<float>{3, 4});
  // A tensor with attributes.
  const std::string attributes =
      global("torch._tensor", "_rebuild_from_type_v2") +
      tuple({global("torch._utils", "_rebuild_tensor_v2"), global("torch", "Tensor"),
             tuple({storage(6), integer(4), integers({2}), integers({1}), "\x89", "N"}),
             dict({{"mark", "\x88"}})}) +
      "R";
  write_zip(folder / "c.pth", archive(dict({{"w", attributes}})));
  CHECK(read_state_dict(folder / "c.pth").at("w").to_float32().values == std::vector<float>{5, 6});
}

TEST_CASE("tensors that don't fit their storage, or ask for more than a file holds, are refused") {
  constexpr int64_t huge = int64_t{1} << 62;
  const auto refuse = [](const std::string& bytes, const std::vector<std::string>& words) {
    check_refused(refusal_of(archive(dict({{"w", bytes}}))), words);
  };
  refuse(tensor(6, 0, {7}, {1}), {"w", "beyond its storage of 6"});
  refuse(tensor(6, 6, {1}, {1}), {"w", "beyond"});
  refuse(tensor(6, -1, {1}, {1}), {"w", "offset -1"});
  refuse(tensor(6, 0, {2}, {6}), {"w", "beyond"});
  refuse(tensor(6, 0, {2}, {-1}), {"w", "negative"});
  refuse(tensor(6, 0, {-2}, {1}), {"w", "negative"});
  refuse(tensor(6, huge, {2}, {huge}), {"w", "beyond"});
  refuse(tensor(6, 0, {3}, {huge}), {"w", "beyond"});
  refuse(tensor(6, 0, {huge, 4}, {0, 0}), {"w", "larger than any file"});
  refuse(tensor(6, 0, {1'000'000, 1'000'000}, {0, 0}), {"w", "far larger than its storage"});
  refuse(tensor(7, 0, {6}, {1}), {"w", "24 bytes, not 7 elements"});
  refuse(tensor(5, 0, {5}, {1}), {"w", "24 bytes, not 5 elements"});
  refuse(tensor(-1, 0, {0}, {1}), {"a tensor without a storage"});
  refuse(tensor(6, 0, {1}, {1, 1}), {"sizes and strides"});
  refuse(tensor(6, 0, std::vector<int64_t>(65, 1), std::vector<int64_t>(65, 1)), {"at most 8 dimensions"});
  // Many expanded views together.
  std::vector<std::pair<std::string, std::string>> many;
  for (int i = 0; i < 100; ++i) many.emplace_back(std::to_string(i), tensor(6, 0, {1'000'000}, {0}));
  check_refused(refusal_of(archive(dict(many))), {"far larger than its storage"});
  // One storage under two dtypes, or beside the archive's folder.
  const auto with_storage = [&](const std::string& stored) {
    return global("torch._utils", "_rebuild_tensor_v2") +
           tuple({stored, integer(0), integers({1}), integers({1})}) + "R";
  };
  check_refused(refusal_of(archive(dict(
                    {{"a", with_storage(storage(6))}, {"w", with_storage(storage(6, "0", "IntStorage"))}}))),
                {"w", "two dtypes"});
  refuse(with_storage(storage(6, "../data/0")), {"no storage ../data/0"});
  refuse(with_storage(storage(6, "1")), {"no storage 1"});
  refuse(with_storage(storage(6, "0", "ComplexFloatStorage")),
         {"tensor w: ComplexFloatStorage", "dense tensors of real numbers"});
  refuse(with_storage(integer(1)), {"a tensor without a storage"});
  check_refused(refusal_of(archive(dict({{"a\nb", tensor(6, 0, {6}, {1})}}))),
                {"\"a\\x0ab\" is no tensor's name"});
}

TEST_CASE("pickles that are damaged or abuse the stack, the memo or memory are refused") {
  const auto refuse = [](const std::string& bytes, const std::vector<std::string>& words) {
    check_refused(refusal_of({{"x/data.pkl", bytes}}), words);
  };
  refuse("", {"cut off"});
  refuse("\x80\x02", {"cut off"});
  refuse("\x80\x06N.", {"protocol 6"});
  refuse("\x80\x01I12x\n.", {"\"12x\" is no integer"});
  refuse("\x80\x02.", {"0 values"});
  refuse("\x80\x02NN.", {"2 values"});
  refuse("\x80\x02N(.", {"1 values"});
  refuse(
      "\x80\x02"
      "0N.",
      {"nothing to take"});
  refuse("\x80\x02(N\x86.", {"nothing to take"});
  refuse("\x80\x02N(a.", {"nothing to take"});
  refuse("\x80\x02t.", {"no mark"});
  refuse("\x80\x02h\x05.", {"the memo has no 5"});
  refuse("\x80\x02q\x05.", {"nothing on the stack"});
  refuse("\x80\x02NNs.", {"nothing"});
  refuse("\x80\x02]NNs.", {"no dict"});
  refuse("\x80\x02}(Nu.", {"a key without a value"});
  refuse("\x80\x02X\xff\xff\xff\xff.", {"cut off"});
  refuse("\x80\x04\x8d"s + std::string(8, '\xff') + ".", {"cut off"});
  refuse("\x80\x02\x8b"s + little_endian(0xffffffffu, 4) + ".", {"cut off"});
  refuse(
      "\x80\x02"
      "cos",
      {"cut off"});
  refuse("\x80\x02"s + std::string(2000, '(') + ".", {"nested"});
  refuse("\x80\x02"s + std::string(2'500'000, 'N') + ".", {"2000000 values"});
  refuse("\x80\x02N"s + std::string(2'500'000, '2') + ".", {"2000000 values"});
  refuse("\x80\x04N"s + std::string(2'500'000, '\x94') + ".", {"2000000 values"});
  refuse("\x80\x02"s + std::string(1'000'000, ']') + std::string(999'999, 'a') + ".",
         {"no state dict"});  // very deep
  refuse(
      "\x80\x02]q\x01h\x01"
      "a.",
      {"no state dict"});  // in itself
  refuse("\x80\x02}q\x01(X\x01"s + std::string(3, '\0') + "ah\x01u.", {"no state dict"});
}

TEST_CASE("archives that are no torch.save's, or bombs, are refused") {
  const std::string good = dict({{"w", tensor(6, 0, {6}, {1})}});
  CHECK(refusal_of(archive(good)).empty());
  check_refused(refusal_of(archive(good), ZIP_CM_DEFLATE), {"compressed"});
  const std::string bomb = dict({{"w", tensor(50'000'000, 0, {50'000'000}, {1})}});
  check_refused(refusal_of(archive(bomb, std::string(200'000'000, '\0')), ZIP_CM_DEFLATE), {"compressed"});
  check_refused(refusal_of({{"a/b.txt", "c"}}), {"no data.pkl"});
  check_refused(refusal_of({{"a/data.pkl", pickle(good)}, {"b/data.pkl", pickle(good)}}), {"two data.pkl"});
  check_refused(refusal_of({{"a/constants.pkl", "N."}, {"a/data.pkl", pickle(good)}}), {"TorchScript"});
  const TemporaryDirectory folder;
  write_file(folder / "tar.pth", std::string(257, 'a') + "ustar"s + std::string(1000, '\0'));
  check_refused(refusal(folder / "tar.pth"), {"format of 2016"});
  write_file(folder / "short.pth", "PK");
  check_refused(refusal(folder / "short.pth"), {"zip"});

  // The central directory claims a larger entry than the file.
  write_zip(folder / "lie.pth", archive(good));
  std::string bytes = read_file(folder / "lie.pth");
  for (size_t at = bytes.find("PK\x01\x02"); at != std::string::npos; at = bytes.find("PK\x01\x02", at + 4)) {
    bytes.replace(at + 20, 8, little_endian(0x7fffffff, 4) + little_endian(0x7fffffff, 4));
  }
  write_file(folder / "lie.pth", bytes);
  CHECK_FALSE(refusal(folder / "lie.pth").empty());
}

TEST_CASE("cut anywhere or with a bit flipped, a file is refused or read, never more") {
  const TemporaryDirectory folder;
  const std::string path = folder / "file.pth", whole = read_file(data("pth/checkpoint.pth"));
  const auto write = [&](const std::string& bytes) {
    fs::remove(path);
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  };
  for (size_t size = 0; size < whole.size(); ++size) {
    CAPTURE(size);
    write(whole.substr(0, size));
    const std::string message = refusal(path, "model");
    CHECK_FALSE(message.empty());
    CHECK(message.find('\n') == std::string::npos);
  }
  size_t refused = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i * 5 % 8)));
    write(flipped);
    const std::string message = refusal(path, "model");
    CHECK(message.find('\n') == std::string::npos);
    refused += message.empty() ? 0 : 1;
  }
  CHECK(refused > whole.size() / 4);
}

TEST_CASE("the pickle's every byte, flipped past the archive's checksum, does no harm") {
  const std::string value =
      dict({{"model", dict({{"w", tensor(6, 0, {2, 3}, {3, 1})}, {"b", tensor(6, 4, {2}, {1})}})},
            {"config", global("argparse", "Namespace") + ")\x81}" + "("s + text("a") + "K\x01ub"}});
  const TemporaryDirectory folder;
  const std::string good = pickle(value);
  size_t refused = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    for (const int flip : {0x01, 0x10, 0x80, 0xff}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ flip);
      write_zip(folder / "a.pth", {{"x/data.pkl", bad}, {"x/data/0", floats({1, 2, 3, 4, 5, 6})}});
      refused += refusal(folder / "a.pth").empty() ? 0 : 1;
    }
  }
  CHECK(refused > good.size());
}

}  // namespace
}  // namespace vmamba
