// Files of torch.save: a zip archive with NAME/data.pkl (a pickle of dicts of tensors), NAME/data/KEY (one storage
// each, uncompressed), NAME/byteorder. Before PyTorch 1.6: five pickles (magic number, version, machine, the dicts,
// a list of keys), then for each key its number of elements in 8 bytes and the elements. Only the storages of the
// chosen state dict are read.
#include <zip.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "kernels/error.h"
#include "lib/support/files.h"
#include "lib/support/log.h"
#include "lib/support/text.h"
#include "lib/tensors/pickle.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {
namespace fs = std::filesystem;
namespace {

using Kind = PickleNode::Kind;
using Buffer = std::vector<char>;

constexpr uint64_t max_pickle_bytes = 64 << 20;

// The entries of the archive. torch.save does not compress, so compressed entries are refused: this bounds each entry,
// and all entries read together, by the size of the file.
class Archive {
 public:
  explicit Archive(const fs::path& path) : where_(path.string()) {
    int code = 0;
    zip_.reset(zip_open(path.c_str(), ZIP_RDONLY, &code));
    if (!zip_) {
      zip_error_t error;
      zip_error_init_with_code(&error, code);
      const std::string why = zip_error_strerror(&error);
      zip_error_fini(&error);
      fail_input("{}: not a whole zip archive of torch.save: {}", where_, why);
    }
    std::error_code ignored;
    left_ = fs::file_size(path, ignored);
    find_pickle();
  }

  // nullptr if the archive has no such entry.
  std::shared_ptr<const Buffer> read(const std::string& name) {
    zip_stat_t status;
    if (zip_stat(zip_.get(), (prefix_ + name).c_str(), ZIP_FL_ENC_RAW, &status) != 0) return nullptr;
    constexpr zip_uint64_t wanted = ZIP_STAT_INDEX | ZIP_STAT_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_CRC;
    if ((status.valid & wanted) != wanted)
      fail_input("{}: entry {} of the archive is damaged", where_, label(name));
    if (status.comp_method != ZIP_CM_STORE) {
      fail_input(
          "{}: entry {} of the archive is compressed, which torch.save never does: save it anew with PyTorch",
          where_, label(name));
    }
    if (status.size > left_) {
      fail_input("{}: entry {} of {} bytes is more than the file holds", where_, label(name), status.size);
    }
    left_ -= status.size;
    const std::unique_ptr<zip_file_t, int (*)(zip_file_t*)> file(zip_fopen_index(zip_.get(), status.index, 0),
                                                                 zip_fclose);
    if (!file) fail_input("{}: entry {}: {}", where_, label(name), zip_strerror(zip_.get()));
    const auto bytes = std::make_shared<Buffer>(status.size);
    size_t got = 0;
    while (got < bytes->size()) {
      const zip_int64_t count = zip_fread(file.get(), bytes->data() + got, bytes->size() - got);
      if (count <= 0) fail_input("{}: entry {}: {}", where_, label(name), zip_file_strerror(file.get()));
      got += static_cast<size_t>(count);
    }
    // The CRC is only checked on reading to the end; PyTorch can be configured to omit CRCs.
    char more = 0;
    if (status.crc != 0 && zip_fread(file.get(), &more, 1) != 0) {
      fail_input("{}: entry {}: {}", where_, label(name), zip_file_strerror(file.get()));
    }
    return bytes;
  }

 private:
  // All entries are in one folder, named after the original file.
  void find_pickle() {
    constexpr std::string_view pickle = "/data.pkl";
    for (zip_int64_t i = 0; i < zip_get_num_entries(zip_.get(), 0); ++i) {
      const char* raw = zip_get_name(zip_.get(), static_cast<zip_uint64_t>(i), ZIP_FL_ENC_RAW);
      const std::string_view name = raw == nullptr ? "" : raw;
      if (name.ends_with("/constants.pkl")) {
        fail_input(
            "{}: a TorchScript archive: save torch.jit.load(FILE).state_dict() with torch.save instead",
            where_);
      }
      if (name.ends_with(".npy")) {
        fail_input(
            "{}: an archive of NumPy arrays (.npz), not weights: python3 -c \"import numpy, sys, torch; "
            "torch.save({{k: torch.from_numpy(v) for k, v in numpy.load(sys.argv[1]).items()}}, 'weights.pth')\" {} "
            "turns it into some",
            where_, shell_quoted(where_));
      }
      if (!name.ends_with(pickle)) continue;
      if (!prefix_.empty()) fail_input("{}: the archive has two data.pkl", where_);
      prefix_ = name.substr(0, name.size() - pickle.size() + 1);
    }
    if (prefix_.empty()) fail_input("{}: a zip archive, but not of torch.save: it has no data.pkl", where_);
  }
  std::string label(const std::string& name) const { return printable(prefix_ + name); }

  struct Close {
    void operator()(zip_t* zip) const { zip_discard(zip); }
  };
  std::string where_, prefix_;
  std::unique_ptr<zip_t, Close> zip_;
  uint64_t left_ = 0;
};

struct Strides {
  std::vector<int64_t> dims, strides;
  int64_t offset = 0;  // all in elements
};

// The checked position of a tensor in its storage: number of elements, index of the last one.
struct Extent {
  int64_t elements = 1, last = 0;
  bool contiguous = true;
};

Extent extent_of(const Strides& tensor, int64_t storage_elements, const std::string& where,
                 const std::string& name) {
  const auto refuse = [&](std::string_view why) {
    fail_input("{}: tensor {} of shape {}, strides {}, offset {}: {}", where, name, shape_string(tensor.dims),
               shape_string(tensor.strides), tensor.offset, why);
  };
  Extent extent;
  int64_t dense_stride = 1;
  for (size_t i = tensor.dims.size(); i-- > 0;) {
    const int64_t dim = tensor.dims[i], stride = tensor.strides[i];
    if (dim < 0 || stride < 0) refuse("negative");
    if (dim != 1 && stride != dense_stride) extent.contiguous = false;
    if (__builtin_mul_overflow(extent.elements, dim, &extent.elements) ||
        __builtin_mul_overflow(dense_stride, std::max<int64_t>(dim, 1), &dense_stride)) {
      refuse("larger than any file");
    }
    int64_t reach = 0;
    if (dim > 0 && (__builtin_mul_overflow(dim - 1, stride, &reach) ||
                    __builtin_add_overflow(extent.last, reach, &extent.last))) {
      refuse("reaches beyond its storage");
    }
  }
  if (tensor.offset < 0 || __builtin_add_overflow(extent.last, tensor.offset, &extent.last)) {
    refuse("reaches beyond its storage");
  }
  if (extent.elements > 0 && extent.last >= storage_elements) {
    refuse(fmt::format("reaches beyond its storage of {} elements", storage_elements));
  }
  return extent;
}

// Copies the elements of a strided view, in row-major order.
void gather(const Strides& tensor, const char* storage, size_t width, Buffer& out) {
  std::vector<int64_t> index(tensor.dims.size(), 0);
  int64_t at = tensor.offset;
  for (size_t done = 0; done < out.size(); done += width) {
    std::memcpy(out.data() + done, storage + static_cast<size_t>(at) * width, width);
    for (size_t i = tensor.dims.size(); i-- > 0;) {
      if (tensor.dims[i] == 1) continue;  // its stride is irrelevant
      at += tensor.strides[i];
      if (++index[i] < tensor.dims[i]) break;
      at -= tensor.strides[i] * tensor.dims[i];
      index[i] = 0;
    }
  }
}

// Negates in place; integers wrap around, as in PyTorch.
void negate(Buffer& bytes, DType dtype) {
  const size_t width = size_of(dtype);
  for (size_t i = 0; i + width <= bytes.size(); i += width) {
    if (is_floating(dtype)) {
      bytes[i + width - 1] = static_cast<char>(bytes[i + width - 1] ^ 0x80);
    } else if (dtype != DType::boolean) {
      int64_t value = 0;
      std::memcpy(&value, bytes.data() + i, width);
      value = static_cast<int64_t>(-static_cast<uint64_t>(value));
      std::memcpy(bytes.data() + i, &value, width);
    }
  }
}

constexpr std::string_view legacy_number = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

class Loader {
 public:
  explicit Loader(const fs::path& path) : where_(path.string()) {
    std::array<char, 512> head{};
    std::ifstream file(path, std::ios::binary);
    file.read(head.data(), head.size());
    const std::string_view bytes(head.data(), static_cast<size_t>(file.gcount()));
    // The magic number follows the protocol and, from protocol 4 on, the length of a frame.
    if (bytes.starts_with('\x80') && bytes.substr(0, 30).find(legacy_number) != std::string_view::npos) {
      open_legacy(path);
      return;
    }
    if (bytes.starts_with('\x80')) fail_input("{}: a bare pickle, not a file of torch.save", where_);
    if (bytes.size() == head.size() && bytes.substr(257, 5) == "ustar") {
      fail_input(
          "{}: written in PyTorch's format of 2016, which only PyTorch reads, and executes: if you trust it, "
          "python3 -c \"import sys, torch; torch.save(torch.load(sys.argv[1], map_location='cpu', "
          "weights_only=False), 'new.pth')\" {} rewrites it",
          where_, shell_quoted(where_));
    }
    open_archive(path);
  }

  StateDict load(const std::string& key) {
    if (!tree_.suspect.empty()) {
      log_remark(LogLevel::warning,
                 "{}: asks for {} to be called, which no checkpoint needs. Nothing of it was executed here; "
                 "PyTorch would",
                 where_, tree_.suspect);
    }
    const PickleNode& dict = tree_.nodes[choose(key)];
    StateDict result;
    result.where = where_;
    std::unordered_map<std::string_view, size_t> places;  // duplicate names: the last one wins, as in Python
    for (const auto& [name, index] : entries(dict)) {
      const PickleNode& value = tree_.nodes[index];
      if (value.kind != Kind::tensor) continue;
      if (name.size() > 500 || std::ranges::any_of(name, [](char c) {
            return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
          })) {
        fail_input("{}: {} is no tensor's name", where_, in_quotes(name));
      }
      const auto [place, inserted] = places.emplace(name, result.tensors.size());
      StoredTensor tensor;
      try {
        tensor = tensor_of(value, std::string(name));
      } catch (const InputError& error) {  // only matters if the model needs this tensor
        tensor.unreadable = error.what();
      }
      if (inserted) {
        result.tensors.emplace_back(name, std::move(tensor));
      } else {
        result.tensors[place->second].second = std::move(tensor);
      }
    }
    return result;
  }

 private:
  void open_archive(const fs::path& path) {
    archive_.emplace(path);
    const auto order = archive_->read("byteorder");
    if (order) {
      const std::string_view text(order->data(), order->size());
      if (text != "little" && text != "big") fail_input("{}: the byte order {}", where_, in_quotes(text));
      big_endian_ = text == "big";
    }
    pickle_ = archive_->read("data.pkl");
    if (!pickle_) fail_input("{}: the archive's data.pkl is damaged", where_);
    if (pickle_->size() > max_pickle_bytes) {
      fail_input("{}: a data.pkl of {} bytes: no checkpoint of a classifier", where_, pickle_->size());
    }
    tree_ = read_pickle({pickle_->data(), pickle_->size()}, where_);
  }

  void open_legacy(const fs::path& path) {
    const std::string file = read_file(path);
    pickle_ = std::make_shared<const Buffer>(file.begin(), file.end());
    size_t at = 0;
    const auto next = [&] {
      const std::string_view rest = std::string_view(pickle_->data(), pickle_->size()).substr(at);
      PickleTree tree = read_pickle(rest.substr(0, max_pickle_bytes), where_);
      at += tree.end;
      return tree;
    };
    next();  // magic number
    next();  // version
    const PickleTree machine = next();
    const std::vector<uint32_t>& facts = machine.nodes[machine.root].items;
    for (size_t i = 0; i + 1 < facts.size(); i += 2) {
      if (machine.nodes[facts[i]].text == "little_endian") {
        big_endian_ = machine.nodes[facts[i + 1]].integer == 0;
      }
    }
    tree_ = next();
    std::unordered_map<std::string_view, uint64_t> widths;
    for (const PickleNode& node : tree_.nodes) {
      if (node.kind == Kind::storage && node.text.empty()) {
        widths.emplace(tree_.nodes[node.items[0]].text, node.untyped ? 1 : size_of(node.dtype));
      }
    }
    const PickleTree keys = next();
    for (const uint32_t item : keys.nodes[keys.root].items) {
      const std::string_view key = keys.nodes[item].text;
      uint64_t elements = 0;
      const auto width = widths.find(key);
      if (width == widths.end()) break;  // of unknown width: the offsets of all later storages are unknown
      if (pickle_->size() - at < 8) fail_input("{}: cut off before storage {}", where_, printable(key));
      for (size_t i = 8; i-- > 0;) {
        elements = elements << 8 | static_cast<uint8_t>((*pickle_)[at + (big_endian_ ? 7 - i : i)]);
      }
      at += 8;
      if (elements > (pickle_->size() - at) / width->second) {
        fail_input("{}: cut off: storage {} of {} elements, {} bytes left", where_, printable(key), elements,
                   pickle_->size() - at);
      }
      const uint64_t bytes = elements * width->second;
      legacy_.emplace(key, std::string_view(pickle_->data() + at, bytes));
      at += bytes;
    }
  }

  // --- Choice of the state dict.

  struct Entry {
    std::string_view key;
    uint32_t value;
  };
  // The items of a dict with text keys; for an object, its keyed items and its attributes.
  std::vector<Entry> entries(const PickleNode& node) const {
    std::vector<Entry> found;
    const auto add = [&](const std::vector<uint32_t>& items) {
      for (size_t i = 0; i + 1 < items.size(); i += 2) {
        if (tree_.nodes[items[i]].kind == Kind::text) {
          found.push_back({tree_.nodes[items[i]].text, items[i + 1]});
        }
      }
    };
    if (node.kind == Kind::dict || node.kind == Kind::object) add(node.items);
    if (node.kind == Kind::object && node.state != PickleNode::no_state) {
      if (tree_.nodes[node.state].kind == Kind::dict) add(tree_.nodes[node.state].items);
    }
    return found;
  }

  struct Candidate {
    std::string path;  // "model", "ema.module"; empty: the root
    uint32_t node = 0;
    bool dotted = false;  // has tensors with dotted names, like a module's
  };
  struct Survey {
    std::vector<Candidate> candidates;
    std::string module;  // class of a pickled whole module, if one was found; else empty
    std::unordered_set<uint32_t> seen;
  };
  void survey(uint32_t index, const std::string& path, int depth, Survey& out) const {
    constexpr int max_depth = 6;
    constexpr size_t longest_key = 200, most_candidates = 1000;
    const PickleNode& node = tree_.nodes[index];
    if (depth > max_depth || out.candidates.size() >= most_candidates || !out.seen.insert(index).second)
      return;
    const std::vector<Entry> inside = entries(node);
    if (std::ranges::any_of(inside, [](const Entry& entry) { return entry.key == "_parameters"; })) {
      if (out.module.empty()) out.module = class_of(node);
      return;
    }
    Candidate candidate{path, index};
    bool any = false;
    for (const auto& [key, value] : inside) {
      if (tree_.nodes[value].kind != Kind::tensor) continue;
      any = true;
      candidate.dotted = candidate.dotted || key.find('.') != std::string_view::npos;
    }
    if (any) out.candidates.push_back(candidate);
    for (const auto& [key, value] : inside) {
      const Kind kind = tree_.nodes[value].kind;
      if ((kind != Kind::dict && kind != Kind::object) || key.size() > longest_key) continue;
      survey(value, path.empty() ? std::string(key) : fmt::format("{}.{}", path, key), depth + 1, out);
    }
  }
  std::string class_of(const PickleNode& object) const {
    const PickleNode& type = tree_.nodes[static_cast<size_t>(object.integer)];
    if (object.kind != Kind::object || type.kind != Kind::global) return "of an unknown class";
    return printable(fmt::format("{}.{}", tree_.nodes[type.items[0]].text, tree_.nodes[type.items[1]].text));
  }

  // The word "ema" in a key ("model_ema"), unless it is negated ("model_no_ema").
  static bool is_average(const std::string& key) {
    const std::string words = "_" + key + "_";
    for (const char* no : {"_no_", "_non_", "_not_", "_without_", "_wo_", "_pre_", "_before_"})
      if (words.find(no + std::string("ema_")) != std::string::npos) return false;
    return words.find("_ema_") != std::string::npos;
  }

  // mmengine's EMAHook exchanges the weights of the two dicts when it saves.
  struct Exchanged {
    uint32_t averaged, trained;  // state_dict, ema_state_dict
  };
  // nullopt if the dict is not of mmengine's layout.
  std::optional<Exchanged> exchanged(uint32_t root) const {
    const auto find = [&](uint32_t dict, std::string_view wanted) -> std::optional<uint32_t> {
      for (const auto& [key, value] : entries(tree_.nodes[dict]))
        if (key == wanted) return value;
      return std::nullopt;
    };
    const auto averaged = find(root, "state_dict"), trained = find(root, "ema_state_dict"),
               meta = find(root, "meta");
    if (!averaged || !trained) return std::nullopt;
    const bool mmengine = find(root, "message_hub") || (meta && find(*meta, "mmengine_version")) ||
                          find(*trained, "steps");  // the counter of its averaged models
    return mmengine ? std::optional(Exchanged{*averaged, *trained}) : std::nullopt;
  }

  // Averaged weights rank before trained ones, under any key; then the usual keys, the root, and everything else.
  static int rank(const Candidate& candidate) {
    constexpr int other = 4;
    if (candidate.path.empty()) return other - 1;
    int best = other;
    size_t begin = 0;
    while (begin <= candidate.path.size()) {
      const size_t end = std::min(candidate.path.find('.', begin), candidate.path.size());
      const std::string word = lower_case(candidate.path.substr(begin, end - begin));
      begin = end + 1;
      if (is_average(word)) best = 0;
      if (word == "model") best = std::min(best, 1);
      if (word == "state_dict" || word == "model_state_dict") best = std::min(best, 2);
    }
    return best;
  }

  static std::string paths(const std::vector<Candidate>& candidates, const Candidate* but = nullptr) {
    std::string text;
    size_t left = 0, shown = 0;
    for (const Candidate& candidate : candidates) {
      if (&candidate == but) continue;
      if (++shown > 8) {
        ++left;
        continue;
      }
      text += text.empty() ? "" : ", ";
      text += candidate.path.empty() ? "the file itself" : in_quotes(candidate.path);
    }
    if (left > 0) text += fmt::format(" and {} more", left);
    return text.empty() ? "none" : text;
  }

  // The value at a dotted path whose keys may contain dots; nullopt if there is none.
  std::optional<uint32_t> under(uint32_t index, std::string_view path) const {
    const PickleNode& node = tree_.nodes[index];
    std::vector<Entry> inside = entries(node);
    if (node.kind == Kind::list || node.kind == Kind::tuple) {
      const std::string_view word = path.substr(0, path.find('.'));
      const auto number = parse_number<size_t>(word);
      if (number && *number < node.items.size()) inside.push_back({word, node.items[*number]});
    }
    for (const auto& [key, value] : inside) {
      if (key == path) return value;
    }
    for (const auto& [key, value] : inside) {
      if (key.empty() || !path.starts_with(key) || path[key.size()] != '.') continue;
      if (const auto found = under(value, path.substr(key.size() + 1))) return found;
    }
    return std::nullopt;
  }

  uint32_t choose(const std::string& key) const {
    Survey all;
    uint32_t root = tree_.root;
    if (!key.empty()) {
      const auto found = under(root, key);
      if (found) survey(*found, key, 0, all);
      if (all.candidates.empty() && all.module.empty()) {
        survey(tree_.root, "", 0, all);
        fail_input("{}: no dict of tensors under the key {}; there are: {}", where_, in_quotes(key),
                   paths(all.candidates));
      }
      root = *found;
    } else {
      survey(root, "", 0, all);
    }
    if (all.candidates.empty() && !all.module.empty()) {
      fail_input(
          "{}: a whole pickled module ({}; torch.save(model)), not a state dict: where its class can be "
          "imported, python3 -c \"import sys, torch; torch.save(torch.load(sys.argv[1], map_location='cpu', "
          "weights_only=False).state_dict(), 'state_dict.pth')\" {} writes one",
          where_, printable(all.module), shell_quoted(where_));
    }
    if (all.candidates.empty()) fail_input("{}: no state dict: there are no tensors by name in it", where_);

    std::vector<Candidate> likely = all.candidates;
    if (std::ranges::any_of(likely, &Candidate::dotted)) {
      std::erase_if(likely, [](const Candidate& candidate) { return !candidate.dotted; });
    }
    const auto of_optimizer = [](const Candidate& candidate) {
      return candidate.path.find("optim") != std::string::npos;
    };
    if (!std::ranges::all_of(likely, of_optimizer)) std::erase_if(likely, of_optimizer);
    const std::optional<Exchanged> swap = exchanged(root);
    const auto order = [&](const Candidate& candidate) {
      int place = rank(candidate);
      if (swap && candidate.node == swap->averaged) place = 0;
      if (swap && candidate.node == swap->trained) place = INT_MAX;
      // an explicit key selects the tensors directly under it first
      if (candidate.node == root && !key.empty()) place = -1;
      return std::pair(place, std::ranges::count(candidate.path, '.'));
    };
    const Candidate& best = *std::ranges::min_element(likely, {}, order);
    if (std::ranges::count(likely, order(best), order) > 1) {
      fail_input("{}: several dicts of tensors: {}; --key chooses", where_, paths(likely));
    }
    if (likely.size() > 1) {
      log_remark(LogLevel::info, "{}: reading {}{}; also there: {} (--key chooses)", where_,
                 best.path.empty() ? "the file's own tensors" : in_quotes(best.path),
                 swap && best.node == swap->averaged
                     ? ", which is the average: mmengine exchanges it with ema_state_dict when it saves"
                     : "",
                 paths(likely, &best));
    }
    return best.node;
  }

  std::vector<int64_t> integers(uint32_t tuple) const {
    std::vector<int64_t> values;
    for (const uint32_t item : tree_.nodes[tuple].items) values.push_back(tree_.nodes[item].integer);
    return values;
  }

  StoredTensor tensor_of(const PickleNode& node, const std::string& name) {
    if (!node.text.empty()) {
      fail_input("{}: tensor {}: {}: only dense tensors of real numbers of 8 to 64 bits are read", where_,
                 name, printable(node.text));
    }
    const PickleNode& storage = tree_.nodes[node.items[0]];
    const Strides strides{integers(node.items[1]), integers(node.items[2]), node.integer};
    const size_t width = size_of(node.dtype);
    const int64_t storage_elements =
        storage.untyped ? storage.integer / static_cast<int64_t>(width) : storage.integer;
    const Extent extent = extent_of(strides, storage_elements, where_, name);
    StoredTensor tensor{.dtype = node.dtype, .dims = strides.dims};
    if (extent.elements == 0) return tensor;
    const Bytes bytes = storage_of(tree_.nodes[storage.items[0]].text, node.dtype, storage_elements, name);
    if (extent.contiguous && !node.negated) {
      tensor.data = bytes.data + static_cast<size_t>(strides.offset) * width;
      tensor.owner = bytes.owner;
      return tensor;
    }
    // A view may repeat elements: the total size of all copies is bounded by the bytes read.
    uint64_t size = 0;
    if (__builtin_mul_overflow(static_cast<uint64_t>(extent.elements), width, &size) ||
        __builtin_add_overflow(copied_, size, &copied_) || copied_ > (16 << 20) + 4 * read_) {
      fail_input("{}: tensor {} of shape {} is far larger than its storage of {} elements", where_, name,
                 shape_string(strides.dims), storage_elements);
    }
    const auto copy = std::make_shared<Buffer>(size);
    gather(strides, bytes.data, width, *copy);
    if (node.negated) negate(*copy, node.dtype);
    tensor.data = copy->data();
    tensor.owner = copy;
    return tensor;
  }

  struct Bytes {
    const char* data = nullptr;
    uint64_t size = 0;
    std::shared_ptr<const void> owner;
  };
  // Each storage is read only once, even if several tensors share it.
  Bytes storage_of(std::string_view key, DType dtype, int64_t elements, const std::string& name) {
    const auto known = storages_.find(key);
    const uint64_t width = size_of(dtype);
    Bytes bytes;
    if (known != storages_.end()) {
      if (known->second.dtype != dtype) {
        fail_input("{}: the storage {} of tensor {} has two dtypes", where_, printable(key), name);
      }
      bytes = known->second.bytes;
    } else {
      bytes = stored_bytes(key);
      if (bytes.data == nullptr) {
        fail_input("{}: the archive has no storage {} of tensor {}", where_, printable(key), name);
      }
      if (big_endian_) bytes = swapped(bytes, width);
      read_ += bytes.size;
      storages_.emplace(key, Storage{dtype, bytes});
    }
    if (static_cast<uint64_t>(elements) != bytes.size / width || bytes.size % width != 0) {
      fail_input("{}: the storage of tensor {} has {} bytes, not {} elements of {}", where_, name, bytes.size,
                 elements, to_string(dtype));
    }
    return bytes;
  }
  // data is nullptr if the file has no such storage.
  Bytes stored_bytes(std::string_view key) {
    if (!archive_) {
      const auto place = legacy_.find(key);
      if (place == legacy_.end()) return {};
      return {place->second.data(), place->second.size(), pickle_};
    }
    const bool plain = !key.empty() && key.size() < 100 && key.find('/') == std::string_view::npos;
    const auto entry = plain ? archive_->read("data/" + std::string(key)) : nullptr;
    if (!entry) return {};
    return {entry->data(), entry->size(), entry};
  }

  static Bytes swapped(const Bytes& bytes, size_t width) {
    const auto copy = std::make_shared<Buffer>(bytes.data, bytes.data + bytes.size);
    for (size_t i = 0; i + width <= copy->size(); i += width) {
      std::reverse(copy->begin() + static_cast<ptrdiff_t>(i),
                   copy->begin() + static_cast<ptrdiff_t>(i + width));
    }
    return {copy->data(), copy->size(), copy};
  }

  struct Storage {
    DType dtype;
    Bytes bytes;
  };
  std::string where_;
  std::optional<Archive> archive_;
  bool big_endian_ = false;
  std::shared_ptr<const Buffer> pickle_;  // the tree refers to it; before 1.6, the whole file
  PickleTree tree_;
  std::map<std::string, std::string_view, std::less<>> legacy_;  // key → bytes
  std::unordered_map<std::string_view, Storage> storages_;
  uint64_t read_ = 0, copied_ = 0;
};

}  // namespace

StateDict read_pth(const fs::path& path, const std::string& key) {
  return Loader(path).load(key);
}

}  // namespace vmamba
