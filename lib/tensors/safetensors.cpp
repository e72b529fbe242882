// safetensors: u64 length n, n bytes of JSON {name: {dtype, shape, data_offsets: [begin, end]}}, data. Reading maps the
// file and checks every size before use.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "kernels/error.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/mapped_file.h"
#include "lib/support/text.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {
namespace fs = std::filesystem;
namespace {

std::shared_ptr<const MappedFile> mapped(const fs::path& path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat status {};
  if (file.number < 0 || ::fstat(file.number, &status) != 0)
    fail_input("{}: {}", path.string(), std::strerror(errno));
  if (S_ISDIR(status.st_mode)) fail_input("{} is a folder, not a file of weights", path.string());
  if (!S_ISREG(status.st_mode)) fail_input("{} is not a regular file", path.string());
  check_not_replaced(path, status);
  if (status.st_size <= 0) fail_input("{} is empty", path.string());
  return std::make_shared<const MappedFile>(file.number, static_cast<size_t>(status.st_size), path);
}

// --- The header and its tensors.

constexpr uint64_t max_header_bytes = 100'000'000;  // the format's limit
constexpr size_t max_entries = 16'384;  // tensors and metadata: a parsed one can be many times its text
constexpr size_t max_rank = 8;
constexpr size_t max_name = 500;

struct HeaderEntry {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<int64_t>> shape;
  std::optional<std::vector<int64_t>> offsets;
};

// Parses the two levels of the header as events, which keeps their order, detects duplicates, and never builds deeper
// values.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<HeaderEntry> entries;
  std::map<std::string, std::string> metadata;
  std::string error;

  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_float(double, const std::string& text) override { return scalar("the number " + text); }
  bool binary(binary_t&) override { return scalar("binary data"); }
  bool number_integer(int64_t value) override { return scalar(fmt::format("the number {}", value)); }
  bool number_unsigned(uint64_t value) override {
    if (!list_) return scalar(fmt::format("the number {}", value));
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return fail(fmt::format("{} of {} holds {}, more than any file", key_, label(), value));
    }
    if (list_->size() >= max_rank) {
      return fail(fmt::format("{} of {} has more than {} entries", key_, label(), max_rank));
    }
    list_->push_back(static_cast<int64_t>(value));
    return true;
  }
  bool string(std::string& value) override {
    if (depth_ == 2 && in_metadata_ && !list_) {
      return metadata.emplace(key_, value).second ? no_more_than_allowed() : duplicate(key_);
    }
    if (depth_ == 2 && !list_ && key_ == "dtype") {
      entries.back().dtype = value;
      return true;
    }
    return scalar(fmt::format("the string \"{}\"", printable(value)));
  }
  bool start_object(size_t) override {
    if (list_ || depth_ > 1) return scalar("an object");
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    in_metadata_ = in_metadata_ && depth_ == 2;
    return true;
  }
  bool start_array(size_t) override {
    if (depth_ != 2 || list_ || in_metadata_ || (key_ != "shape" && key_ != "data_offsets")) {
      return scalar("a list");
    }
    auto& target = key_ == "shape" ? entries.back().shape : entries.back().offsets;
    list_ = &target.emplace();
    return true;
  }
  bool end_array() override {
    list_ = nullptr;
    return true;
  }
  bool key(std::string& value) override {
    if (depth_ == 1) {
      const bool clean = std::none_of(value.begin(), value.end(), [](char c) {
        return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
      });
      if (!clean || value.size() > max_name)
        return fail(fmt::format("\"{}\" is no tensor's name", printable(value)));
      if (!names_.insert(value).second) return duplicate(value);
      in_metadata_ = value == "__metadata__";
      keys_.clear();
      key_ = value;
      if (in_metadata_) return true;
      entries.push_back({.name = value});
      return no_more_than_allowed();
    }
    key_ = value;
    if (in_metadata_) return true;
    if (value != "dtype" && value != "shape" && value != "data_offsets") {
      return fail(fmt::format("{} has the unknown key \"{}\"", label(), printable(value)));
    }
    return keys_.insert(value).second || fail(fmt::format("{} has {} twice", label(), value));
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& what) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 9: …": only the tail is useful.
    const std::string text = what.what();
    const size_t colon = text.find(": ");
    return fail(fmt::format("at byte {}: {}", position + 8,
                            printable(colon == std::string::npos ? text : text.substr(colon + 2))));
  }

 private:
  bool fail(std::string text) {
    error = std::move(text);
    return false;
  }
  bool duplicate(const std::string& name) {
    return fail(fmt::format("the name {} stands twice", printable(name)));
  }
  bool no_more_than_allowed() {
    return entries.size() + metadata.size() <= max_entries ||
           fail(fmt::format("more than {} tensors and entries of metadata: no model of this kind",
                            max_entries));
  }
  bool scalar(const std::string& what) {
    if (depth_ == 0) return fail(fmt::format("is {}, not an object", what));
    if (depth_ == 1) return fail(fmt::format("{} is {}, not an object", label(), what));
    return fail(fmt::format("{} of {} holds {}", key_, label(), what));
  }
  std::string label() const {
    return in_metadata_ ? "__metadata__" : entries.empty() ? "the header" : "tensor " + entries.back().name;
  }

  int depth_ = 0;
  bool in_metadata_ = false;
  std::vector<int64_t>* list_ = nullptr;
  std::string key_;
  std::unordered_set<std::string> names_;
  std::set<std::string> keys_;
};

uint64_t read_u64(const unsigned char* bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | bytes[i];
  return value;
}

// Checks an entry on its own: dtype and shape against the number of bytes.
StoredTensor entry_tensor(const std::string& where, const HeaderEntry& entry, size_t data_size,
                          const unsigned char* data) {
  const auto need = [&](bool present, std::string_view key) {
    if (!present) fail_input("{}: tensor {} has no {}: the header is damaged", where, entry.name, key);
  };
  need(entry.dtype.has_value(), "dtype");
  need(entry.shape.has_value(), "shape");
  need(entry.offsets.has_value() && entry.offsets->size() == 2, "data_offsets of two numbers");
  StoredTensor tensor;
  const auto* named = std::ranges::find(table_of<DType>, *entry.dtype, &DTypeRow::safetensors);
  const bool known = named != table_of<DType>.end();
  if (known) {
    tensor.dtype = named->value;
  } else {
    tensor.unreadable = fmt::format("{}: tensor {} has the dtype {}, which is not read", where, entry.name,
                                    printable(*entry.dtype));
  }
  tensor.dims = *entry.shape;
  auto bytes = static_cast<int64_t>(size_of(tensor.dtype));
  for (const int64_t dim : tensor.dims) {
    if (__builtin_mul_overflow(bytes, dim, &bytes)) {
      fail_input("{}: tensor {} of shape {} is larger than any file", where, entry.name,
                 shape_string(tensor.dims));
    }
  }
  const auto begin = static_cast<uint64_t>((*entry.offsets)[0]);
  const auto end = static_cast<uint64_t>((*entry.offsets)[1]);
  if (begin > end || end > data_size) {
    fail_input("{}: tensor {} lies at [{}, {}) of {} bytes of data: the file is cut off or damaged", where,
               entry.name, begin, end, data_size);
  }
  if (known && end - begin != static_cast<uint64_t>(bytes)) {
    fail_input("{}: tensor {} {} {} needs {} bytes, its data_offsets give {}", where, entry.name,
               *entry.dtype, shape_string(tensor.dims), bytes, end - begin);
  }
  if (known) tensor.data = data + begin;
  return tensor;
}

StateDict parse_safetensors(const fs::path& path, const std::shared_ptr<const MappedFile>& mapping) {
  const std::string where = path.string();
  if (mapping->size() < 8) fail_input("{}: {} bytes are no file of weights", where, mapping->size());
  const uint64_t header_size = read_u64(mapping->data());
  const bool begins = mapping->size() > 8 && mapping->data()[8] == '{';
  if (header_size > max_header_bytes || (!begins && header_size > mapping->size() - 8)) {
    fail_input("{}: neither a safetensors file nor one of torch.save", where);
  }
  if (header_size > mapping->size() - 8) {
    fail_input("{}: cut off: a header of {} bytes in a file of {}", where, header_size, mapping->size());
  }
  const auto* header = reinterpret_cast<const char*>(mapping->data() + 8);
  HeaderReader reader;
  if (header_size == 0 || header[0] != '{')
    fail_input("{}: no safetensors file: the header is no JSON object", where);
  if (!nlohmann::json::sax_parse(header, header + header_size, &reader)) {
    fail_input("{}: safetensors header: {}", where, reader.error);
  }

  const unsigned char* data = mapping->data() + 8 + header_size;
  const size_t data_size = mapping->size() - 8 - static_cast<size_t>(header_size);
  StateDict result;
  result.where = where;
  result.metadata = std::move(reader.metadata);
  std::vector<std::pair<uint64_t, size_t>> places;  // (begin, index)
  for (const HeaderEntry& entry : reader.entries) {
    StoredTensor tensor = entry_tensor(where, entry, data_size, data);
    tensor.owner = mapping;
    places.emplace_back((*entry.offsets)[0], result.tensors.size());
    result.tensors.emplace_back(entry.name, std::move(tensor));
  }
  // Sorted by offset, the tensors must cover the data without gaps or overlaps.
  std::sort(places.begin(), places.end(), [&](const auto& a, const auto& b) {
    const auto end = [&](const auto& place) { return (*reader.entries[place.second].offsets)[1]; };
    return std::pair(a.first, end(a)) < std::pair(b.first, end(b));
  });
  uint64_t expected = 0;
  std::string_view before = "the header";
  for (const auto& [begin, index] : places) {
    const HeaderEntry& entry = reader.entries[index];
    if (begin != expected) {
      fail_input("{}: tensor {} begins at byte {} of the data, {} ends at {}: they {}", where, entry.name,
                 begin, before, expected, begin < expected ? "overlap" : "leave a gap");
    }
    expected = static_cast<uint64_t>((*entry.offsets)[1]);
    before = entry.name;
  }
  if (expected != data_size) {
    fail_input("{}: {} bytes after the last tensor: the file is damaged", where, data_size - expected);
  }
  return result;
}

}  // namespace

StateDict read_safetensors(const fs::path& path) {
  return parse_safetensors(path, mapped(path));
}

namespace {

// Recognises other file types given as weights: what the file is and what to do; empty if unknown.
std::string other_kind(std::string_view bytes) {
  const auto holds = [&](size_t at, std::string_view text) {
    return bytes.size() > at && bytes.substr(at).starts_with(text);
  };
  constexpr std::string_view from_pytorch =
      ": give the .pth or safetensors file that it was made from, or save model.state_dict() with torch.save";
  if (holds(0, "version https://git-lfs")) {
    return "is a Git LFS pointer, not the weights: git lfs pull fetches them";
  }
  if (holds(0, "<")) return "is a web page, not weights: download it again";
  if (holds(0, "\x89HDF\r\n")) return fmt::format("is HDF5 (Keras), not weights of PyTorch{}", from_pytorch);
  if (holds(0, "GGUF")) return fmt::format("is a GGUF file (llama.cpp){}", from_pytorch);
  if (holds(0, "\x93NUMPY"))
    return fmt::format("is one NumPy array (.npy), not a model's weights{}", from_pytorch);
  if (holds(0, "\x1f\x8b")) return "is compressed with gzip: unpack it with gunzip";
  if (holds(0,
            "\xfd"
            "7zXZ"))
    return "is compressed with xz: unpack it with unxz";
  if (holds(0, "\x89PNG") || holds(0, "\xff\xd8\xff")) return "is an image, not weights";
  if (holds(4, "TFL3")) return fmt::format("is a TensorFlow Lite model{}", from_pytorch);
  if (holds(0, "\x08") && bytes.size() > 3 && bytes[1] > 0 && bytes[1] < 32 &&
      (bytes[2] == '\x12' || bytes[2] == ':')) {  // ModelProto: ir_version, then producer_name or graph
    return fmt::format("is an ONNX model{}", from_pytorch);
  }
  const size_t first = bytes.find_first_not_of(" \t\r\n");
  const std::string_view text = bytes.substr(first == std::string_view::npos ? bytes.size() : first);
  if (text.starts_with('{')) return "is JSON, not weights: a config is given with --config";
  const std::string_view head = text.substr(0, 4096);
  if (head.starts_with("MODEL:") || head.find("\nMODEL:") != std::string_view::npos) {
    return "is a YAML config, not weights: `vmamba-cli migrate-config` turns it into one for --config";
  }
  return {};
}

constexpr size_t max_index_bytes = 2 << 20;  // enough for 10,000 names

StateDict read_any(const fs::path& path, const std::string& key, bool may_be_index = true);

// A sharded model: {"weight_map": {NAME: FILE}}, with the files beside the index.
StateDict read_shards(const fs::path& index_path, const JsonDocument& index, int weight_map) {
  const std::string where = index_path.string();
  StateDict result;
  result.where = where;
  std::map<std::string, StateDict> shards;
  std::map<std::string, std::unordered_map<std::string_view, const StoredTensor*>> tensors;
  for (const int entry : index.children(weight_map)) {
    const JsonValue& value = index[entry];
    if (value.type != JsonType::string) fail_input("{}: expected the name of a file", index.place(entry));
    const std::string& file = value.text;
    const bool inside = !file.empty() && file != "." && file != ".." &&
                        file.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    if (!inside) {
      fail_input("{}: {} is no file beside the index; only such are read", index.place(entry),
                 in_quotes(file));
    }
    if (!shards.contains(file)) {
      const StateDict& shard =
          shards.emplace(file, read_any(index_path.parent_path() / file, {}, false)).first->second;
      for (const auto& [name, tensor] : shard.tensors) tensors[file].emplace(name, &tensor);
    }
    const auto found = tensors[file].find(value.key);
    if (found == tensors[file].end()) {
      fail_input("{}: {} has no tensor {}", where, printable(file), printable(value.key));
    }
    result.tensors.emplace_back(value.key, *found->second);
  }
  return result;
}

StateDict read_any(const fs::path& path, const std::string& key, bool may_be_index) {
  const auto mapping = mapped(path);
  const std::string_view bytes(reinterpret_cast<const char*>(mapping->data()), mapping->size());
  const auto holds = [&](size_t at, std::string_view text) {
    return bytes.size() > at && bytes.substr(at).starts_with(text);
  };
  const bool safetensors = holds(8, "{") && read_u64(mapping->data()) <= max_header_bytes;
  if (!safetensors) {
    // A zip archive, a pickle, or a tar archive.
    if (holds(0, "PK") || holds(0, "\x80") || holds(257, "ustar")) return read_pth(path, key);
    if (bytes.size() <= max_index_bytes && bytes.find("\"weight_map\"") != std::string_view::npos) {
      if (!may_be_index) fail_input("{}: an index of weights within another", path.string());
      const JsonDocument index(bytes, path.string());
      const int weight_map = index.root().type == JsonType::object ? index.find(0, "weight_map") : -1;
      if (weight_map < 0 || index[weight_map].type != JsonType::object) {
        fail_input("{}: an index of weights without an object weight_map", path.string());
      }
      if (!key.empty())
        fail_input("{}: an index has no dicts for the key {} to choose", path.string(), in_quotes(key));
      return read_shards(path, index, weight_map);
    }
    const std::string kind = other_kind(bytes);
    if (!kind.empty()) fail_input("{} {}", path.string(), kind);
  }
  if (!key.empty()) {
    fail_input("{} is a safetensors file: it has no dicts for the key {} to choose", path.string(),
               in_quotes(key));
  }
  return parse_safetensors(path, mapping);
}

}  // namespace

StateDict read_state_dict(const fs::path& path, const std::string& key, const std::string& prefix) {
  StateDict all = read_any(path, key);
  if (prefix.empty()) return all;
  StateDict result;
  result.where = all.where;
  result.metadata = all.metadata;
  const std::string dotted = prefix.ends_with('.') ? prefix : prefix + ".";
  std::set<std::string> beginnings;
  for (auto& [name, tensor] : all.tensors) {
    if (name.starts_with(dotted) && name.size() > dotted.size()) {
      result.tensors.emplace_back(name.substr(dotted.size()), std::move(tensor));
    } else if (beginnings.size() < 20) {
      beginnings.insert(printable(name.substr(0, name.find('.'))));
    }
  }
  if (result.tensors.empty()) {
    fail_input("{}: no tensor's name begins with {}; they begin with {}", all.where, in_quotes(dotted),
               fmt::join(beginnings, ", "));
  }
  return result;
}

void write_safetensors(const fs::path& path, const StateDict& tensors) {
  OutputFile file(path);
  write_safetensors(file, tensors);
}

void write_safetensors(OutputFile& file, const StateDict& tensors,
                       const std::function<void(size_t i)>& contents) {
  // Wider dtypes first, so that every tensor is aligned; otherwise the given order is kept.
  std::vector<size_t> order(tensors.tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto width = [&](size_t i) { return size_of(tensors.tensors[i].second.dtype); };
  const auto bytes = [&](size_t i) {
    return static_cast<uint64_t>(tensors.tensors[i].second.elements()) * width(i);
  };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return width(a) > width(b); });
  std::vector<uint64_t> begin(order.size());
  uint64_t end = 0;
  for (const size_t i : order) {
    begin[i] = end;
    end += bytes(i);
  }

  const auto quoted = [&](const std::string& text) {
    try {
      return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      fail_input("{}: a name that is not UTF-8 can't be written as safetensors", file.path().string());
    }
  };
  std::string header = "{";
  if (!tensors.metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : tensors.metadata) header += dump_json(key) + ":" + dump_json(value) + ",";
    header.back() = '}';
    header += ',';
  }
  std::unordered_set<std::string_view> names;
  for (size_t i = 0; i < tensors.tensors.size(); ++i) {
    const std::string& name = tensors.tensors[i].first;
    const StoredTensor& tensor = tensors.tensors[i].second;
    check(names.insert(name).second && name != "__metadata__", "tensor {} is written twice", name);
    if (!tensor.unreadable.empty()) fail_input("{}", tensor.unreadable);
    header += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}},", quoted(name),
                          row_of(tensor.dtype).safetensors, fmt::join(tensor.dims, ","), begin[i],
                          begin[i] + bytes(i));
  }
  if (header.back() == ',') header.pop_back();
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');

  std::array<unsigned char, 8> length{};
  for (size_t i = 0; i < length.size(); ++i)
    length[i] = static_cast<unsigned char>(uint64_t{header.size()} >> (8 * i));
  const auto write = [&](const void* data, uint64_t size) {
    file.stream().write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
  };
  write(length.data(), length.size());
  write(header.data(), header.size());
  for (const size_t i : order)
    if (contents)
      contents(i);
    else
      write(tensors.tensors[i].second.data, bytes(i));
  file.commit();
}

}  // namespace vmamba
