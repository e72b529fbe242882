#include "tests/fuzz/targets.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "kernels/error.h"
#include "kernels/kernels.h"
#include "lib/config/config.h"
#include "lib/config/migrate.h"
#include "lib/images/archives.h"
#include "lib/images/image.h"
#include "lib/images/jpeg_pack.h"
#include "lib/images/preprocess.h"
#include "lib/labels/labels.h"
#include "lib/labels/truth.h"
#include "lib/model/infer_config.h"
#include "lib/support/json.h"
#include "lib/support/text.h"
#include "lib/tensors/state_dict.h"
#include "lib/verify/saved_results.h"

namespace vmamba::fuzz {
namespace {

namespace fs = std::filesystem;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

// A folder of this process, removed at its end. In memory where the system has such a file system.
const fs::path& folder() {
  static const struct Folder {
    Folder() {
      std::string name = fs::exists("/dev/shm") ? "/dev/shm/vmamba_fuzz_XXXXXX" : "/tmp/vmamba_fuzz_XXXXXX";
      require(mkdtemp(name.data()) != nullptr, "no temporary folder");
      path = name;
    }
    ~Folder() {
      std::error_code ignored;
      fs::remove_all(path, ignored);
    }
    fs::path path;
  } made;
  return made.path;
}

fs::path as_file(const char* name, std::string_view bytes) {
  const fs::path path = folder() / name;
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path;
}

void read_tensors(const fs::path& path) {
  const StateDict dict = read_state_dict(path);
  for (const auto& [name, tensor] : dict.tensors)
    if (tensor.unreadable.empty() && tensor.elements() < (1 << 16)) tensor.to_float32();
  infer_config(dict, "fuzz");
}

void weights_file(std::string_view bytes) {
  read_tensors(as_file("weights", bytes));
}

void weights_index(std::string_view bytes) {
  const fs::path path = as_file("model.safetensors.index.json", bytes);
  static const bool written = [] {
    HostTensor tensor{{2}, {}};
    tensor.values = {1, 2};
    StateDict shard;
    shard.add("a", tensor);
    write_safetensors(folder() / "shard.safetensors", shard);
    return true;
  }();
  require(written, "no shard");
  read_state_dict(path);
}

void config(std::string_view bytes) {
  step_names(parse_config(bytes, "fuzz.json"));
}

// Migration must be idempotent, and what it says to run must parse.
void check_migration(const Migration& migration, Migration (*again)(std::string_view text)) {
  const Migration second = again(migration.text);
  require(second.text == migration.text, "migrating twice changes the text");
}

void migrate_json_text(std::string_view bytes) {
  const auto migrate = [](std::string_view text) { return migrate_json(text, "fuzz.json"); };
  check_migration(migrate(bytes), migrate);
}
void migrate_yaml_text(std::string_view bytes) {
  const Migration migration = migrate_yaml(bytes, "fuzz.yaml");
  if (migration.refused.empty()) JsonDocument(migration.text, "fuzz.yaml");
}
void migrate_python_text(std::string_view bytes) {
  const auto migrate = [](std::string_view text) { return migrate_python(text, "fuzz.py"); };
  check_migration(migrate(bytes), migrate);
}

void image(std::string_view bytes) {
  const EncodedImage encoded = parse_image(std::string(bytes), "fuzz");
  if (encoded.pixels() > (1 << 18)) return;  // for speed
  PreprocessConfig preprocess;
  preprocess.resize = 20;
  preprocess.crop = 16;
  // A long strip becomes longer still: the short side is resized.
  if (std::max(encoded.width, encoded.height) < 64 * std::min(encoded.width, encoded.height))
    resize_and_crop(decode_image(encoded), preprocess);
}

// Where the device's way fits a JPEG, it gives the bytes of libjpeg and the resize.
void jpeg_pack(std::string_view bytes) {
  const EncodedImage encoded = parse_image(std::string(bytes), "fuzz");
  if (encoded.pixels() > (1 << 16)) return;
  PreprocessConfig preprocess;
  preprocess.resize = 20;
  preprocess.crop = 16;
  PackedJpeg packed;
  if (!pack_jpeg(encoded, preprocess, packed)) return;
  static const std::unique_ptr<Kernels> kernels = make_scalar_kernels();
  std::vector<uint8_t> crop(size_t{16} * 16 * 3);
  const View pixels(crop.data(), DType::uint8, Device{}, {1, 16, 16, 3});
  const DecodeJpegs::Packed one{0, packed};
  if (!kernels->decode_jpegs({.jpegs = {&one, 1}, .pixels = pixels, .y = pixels}).empty()) return;
  require(crop == resize_and_crop(decode_image(encoded), preprocess).rgb, "another crop than libjpeg's");
}

void archive(std::string_view bytes) {
  const fs::path path = as_file("archive.tar", bytes);
  list_archive(path);
  ArchiveReader reader(path);
  while (const auto image = reader.next())
    if (image->error.empty()) reader.read();
}

void labels(std::string_view bytes) {
  parse_labels(bytes, "fuzz", 3);
}

void truth(std::string_view bytes) {
  const Labels known{{"tench", "goldfish", "cock"}, {"n01440764", "n01443537", "n01514668"}};
  parse_truth(bytes, "fuzz", {"a.jpg", "b/c.jpg", "d.png"}, known, 3);
}

void key_values(std::string_view bytes) {
  parse_key_values("--a", bytes);
}

void results(std::string_view bytes) {
  const fs::path path = as_file("results.jsonl", bytes);
  compare_saved(path, path, 0.5);
}

const Target all[] = {
    {"weights", "pth/* models/*/weights.safetensors", {}, weights_file},
    {"weights_index",
     "",
     {R"({"metadata": {"total_size": 8}, "weight_map": {"a": "shard.safetensors"}})"},
     weights_index},
    {"config", "models/*/config.json", {}, config},
    {"migrate_json",
     "models/*/config.json configs/*.json",
     {R"({"selective_scan_backend": "core"})"},
     migrate_json_text},
    {"migrate_yaml", "configs/*.yaml", {}, migrate_yaml_text},
    {"migrate_python", "configs/*.py", {"m(selective_scan_backend='core')"}, migrate_python_text},
    {"image", "images/* odd_images/*", {}, image},
    {"jpeg_pack", "images/*.jpg odd_images/*.jpg", {}, jpeg_pack},
    {"archive", "archives/*", {}, archive},
    {"labels",
     "",
     {"tench\ngoldfish\ncock\n", "n01440764\ttench\nn01443537\tgoldfish\nn01514668\tcock\n",
      R"({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"], "2": ["n01514668", "cock"]})",
      "{0: 'tench', 1: \"goldfish\", 2: 'cock',}", R"({"id2label": {"0": "a", "1": "b", "2": "c"}})"},
     labels},
    {"truth",
     "",
     {"1\n2\n3\n", "a.jpg,0\nb/c.jpg,1\nd.png,2\n", "a.jpg tench\nb/c.jpg goldfish\nd.png cock\n",
      "[[0], [1, 2], []]"},
     truth},
    {"key_values", "", {"device=cuda:0,dtype=float16", "weights=a.pth,config=b.json,threads=2"}, key_values},
    {"results",
     "",
     {"{\"file\": \"a.jpg\", \"class\": 1, \"top\": [1, 0]}\n",
      "{\"file\": \"a.jpg\", \"top\": [{\"class\": 1, \"label\": \"goldfish\", \"probability\": 0.5, \"logit\": 1.5}]}\n"},
     results},
};

}  // namespace

std::span<const Target> targets() {
  return all;
}

void run_one(const Target& target, std::string_view bytes) {
  static const bool quiet = [] {
    spdlog::set_level(spdlog::level::off);
    return true;
  }();
  require(quiet, "");
  try {
    target.run(bytes);
  } catch (const InputError&) {
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fuzz: %s: not an InputError: %s\n", std::string(target.name).c_str(), error.what());
    std::abort();
  }
}

}  // namespace vmamba::fuzz
