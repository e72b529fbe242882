// torch.save's files: a zip archive NAME/data.pkl (a pickle of dicts of tensors), NAME/data/KEY (one storage
// each, not compressed), NAME/byteorder. Only the storages of the chosen state dict are read.
#include <spdlog/spdlog.h>
#include <zip.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <unordered_map>

#include "kernels/error.h"
#include "lib/support/text.h"
#include "lib/tensors/pickle.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {
namespace fs = std::filesystem;
namespace {

using Kind = PickleNode::Kind;
using Buffer = std::vector<char>;

constexpr uint64_t max_pickle_bytes = 64 << 20;
constexpr std::array<std::string_view, 3> usual_keys{"model_ema", "model", "state_dict"};

// The archive's entries. torch.save compresses nothing, so that a compressed entry is refused: no entry can
// be larger than the file, and all that are read together are no larger either.
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

  // Empty where the archive has no such entry.
  std::shared_ptr<const Buffer> read(const std::string& name) {
    zip_stat_t status;
    if (zip_stat(zip_.get(), (prefix_ + name).c_str(), ZIP_FL_ENC_RAW, &status) != 0) return nullptr;
    constexpr zip_uint64_t wanted = ZIP_STAT_INDEX | ZIP_STAT_SIZE | ZIP_STAT_COMP_METHOD;
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
    char more = 0;  // reading to the end is what checks the sum
    if (zip_fread(file.get(), &more, 1) != 0) {
      fail_input("{}: entry {}: {}", where_, label(name), zip_file_strerror(file.get()));
    }
    return bytes;
  }

 private:
  // Everything lies in one folder of the archive, named as the file once was.
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

// Where the tensor's elements lie in its storage, checked: offset, the last element, and how many there are.
struct Extent {
  int64_t elements = 1, last = 0;
  bool contiguous = true;
};

Extent extent_of(const PickleNode& tensor, int64_t storage_elements, const std::string& where,
                 const std::string& name) {
  const auto refuse = [&](std::string_view why) {
    fail_input("{}: tensor {} of shape {}, strides {}, offset {}: {}", where, name, shape_string(tensor.dims),
               shape_string(tensor.strides), tensor.integer, why);
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
  if (tensor.integer < 0 || __builtin_add_overflow(extent.last, tensor.integer, &extent.last)) {
    refuse("reaches beyond its storage");
  }
  if (extent.elements > 0 && extent.last >= storage_elements) {
    refuse(fmt::format("reaches beyond its storage of {} elements", storage_elements));
  }
  return extent;
}

// The elements of a strided view, in order.
void gather(const PickleNode& tensor, const char* storage, size_t width, Buffer& out) {
  std::vector<int64_t> index(tensor.dims.size(), 0);
  int64_t at = tensor.integer;
  for (size_t done = 0; done < out.size(); done += width) {
    std::memcpy(out.data() + done, storage + static_cast<size_t>(at) * width, width);
    for (size_t i = tensor.dims.size(); i-- > 0;) {
      if (tensor.dims[i] == 1) continue;  // its stride means nothing
      at += tensor.strides[i];
      if (++index[i] < tensor.dims[i]) break;
      at -= tensor.strides[i] * tensor.dims[i];
      index[i] = 0;
    }
  }
}

class Loader {
 public:
  Loader(const fs::path& path) : where_(path.string()), archive_(path) {
    const auto order = archive_.read("byteorder");
    if (order) {
      const std::string_view text(order->data(), order->size());
      if (text != "little" && text != "big") fail_input("{}: the byte order {}", where_, in_quotes(text));
      big_endian_ = text == "big";
    }
    pickle_ = archive_.read("data.pkl");
    if (!pickle_) fail_input("{}: the archive's data.pkl is damaged", where_);
    if (pickle_->size() > max_pickle_bytes) {
      fail_input("{}: a data.pkl of {} bytes: no checkpoint of a classifier", where_, pickle_->size());
    }
    tree_ = read_pickle({pickle_->data(), pickle_->size()}, where_);
  }

  StateDict load(const std::string& key) {
    const PickleNode& dict = choose(key);
    StateDict result;
    result.where = where_;
    std::unordered_map<std::string_view, size_t> places;  // a name given twice: the last stands, as in Python
    for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      const PickleNode& name = tree_.nodes[dict.items[i]];
      const PickleNode& value = tree_.nodes[dict.items[i + 1]];
      if (name.kind != Kind::text || value.kind != Kind::tensor) continue;
      if (name.text.size() > 500 || std::ranges::any_of(name.text, [](char c) {
            return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
          })) {
        fail_input("{}: {} is no tensor's name", where_, in_quotes(name.text));
      }
      const auto [place, inserted] = places.emplace(name.text, result.tensors.size());
      StoredTensor tensor = tensor_of(value, std::string(name.text));
      if (inserted) {
        result.tensors.emplace_back(name.text, std::move(tensor));
      } else {
        result.tensors[place->second].second = std::move(tensor);
      }
    }
    return result;
  }

 private:
  bool holds_tensors(const PickleNode& node) const {
    if (node.kind != Kind::dict) return false;
    for (size_t i = 0; i + 1 < node.items.size(); i += 2) {
      if (tree_.nodes[node.items[i]].kind == Kind::text &&
          tree_.nodes[node.items[i + 1]].kind == Kind::tensor) {
        return true;
      }
    }
    return false;
  }

  // The state dict: under `key`, or under the first of the usual keys, or the file itself.
  const PickleNode& choose(const std::string& key) const {
    const PickleNode& root = tree_.nodes[tree_.root];
    std::map<std::string_view, const PickleNode*> dicts;
    for (size_t i = 0; root.kind == Kind::dict && i + 1 < root.items.size(); i += 2) {
      const PickleNode& name = tree_.nodes[root.items[i]];
      const PickleNode& value = tree_.nodes[root.items[i + 1]];
      if (name.kind == Kind::text && holds_tensors(value)) dicts[name.text] = &value;
    }
    const auto names = [&] {
      std::string text;
      for (const auto& [name, dict] : dicts) text += (text.empty() ? "" : ", ") + in_quotes(name);
      return text.empty() ? "none" : text;
    };
    if (!key.empty()) {
      const auto place = dicts.find(key);
      if (place == dicts.end()) {
        fail_input("{}: no dict of tensors under the key {}; there are: {}", where_, in_quotes(key), names());
      }
      return *place->second;
    }
    for (const std::string_view usual : usual_keys) {
      const auto place = dicts.find(usual);
      if (place == dicts.end()) continue;
      if (dicts.size() > 1) spdlog::info("{}: reading \"{}\" of {} (--key chooses)", where_, usual, names());
      return *place->second;
    }
    if (!holds_tensors(root)) {
      fail_input(
          "{}: no state dict: neither the file itself nor model_ema, model or state_dict in it; dicts of "
          "tensors under other keys (--key chooses): {}",
          where_, names());
    }
    return root;
  }

  StoredTensor tensor_of(const PickleNode& node, const std::string& name) {
    const PickleNode& storage = tree_.nodes[node.items[0]];
    const Extent extent = extent_of(node, storage.integer, where_, name);
    const size_t width = size_of(node.dtype);
    StoredTensor tensor{.dtype = node.dtype, .dims = node.dims};
    if (extent.elements == 0) return tensor;
    const std::shared_ptr<const Buffer> bytes = storage_of(storage, name);
    if (extent.contiguous) {
      tensor.data = bytes->data() + static_cast<size_t>(node.integer) * width;
      tensor.owner = bytes;
      return tensor;
    }
    // A view may name one element many times: what copies take in all is bounded by what was read.
    uint64_t size = 0;
    if (__builtin_mul_overflow(static_cast<uint64_t>(extent.elements), width, &size) ||
        __builtin_add_overflow(copied_, size, &copied_) || copied_ > (64 << 20) + 4 * read_) {
      fail_input("{}: tensor {} of shape {} is far larger than its storage of {} elements", where_, name,
                 shape_string(node.dims), storage.integer);
    }
    const auto copy = std::make_shared<Buffer>(size);
    gather(node, bytes->data(), width, *copy);
    tensor.data = copy->data();
    tensor.owner = copy;
    return tensor;
  }

  // Read once, however many tensors share it.
  std::shared_ptr<const Buffer> storage_of(const PickleNode& storage, const std::string& name) {
    const auto known = storages_.find(storage.text);
    const uint64_t width = size_of(storage.dtype);
    std::shared_ptr<const Buffer> bytes;
    if (known != storages_.end()) {
      if (known->second.dtype != storage.dtype) {
        fail_input("{}: the storage {} of tensor {} has two dtypes", where_, printable(storage.text), name);
      }
      bytes = known->second.bytes;
    } else {
      const bool plain = !storage.text.empty() && storage.text.size() < 100 &&
                         storage.text.find('/') == std::string_view::npos;
      if (plain) bytes = archive_.read("data/" + std::string(storage.text));
      if (!bytes)
        fail_input("{}: the archive has no storage {} of tensor {}", where_, printable(storage.text), name);
      if (big_endian_) bytes = swapped(*bytes, width);
      read_ += bytes->size();
      storages_.emplace(storage.text, Storage{storage.dtype, bytes});
    }
    if (static_cast<uint64_t>(storage.integer) != bytes->size() / width || bytes->size() % width != 0) {
      fail_input("{}: the storage of tensor {} has {} bytes, not {} elements of {}", where_, name,
                 bytes->size(), storage.integer, to_string(storage.dtype));
    }
    return bytes;
  }

  static std::shared_ptr<const Buffer> swapped(Buffer bytes, size_t width) {
    for (size_t i = 0; i + width <= bytes.size(); i += width) {
      std::reverse(bytes.begin() + static_cast<ptrdiff_t>(i),
                   bytes.begin() + static_cast<ptrdiff_t>(i + width));
    }
    return std::make_shared<const Buffer>(std::move(bytes));
  }

  struct Storage {
    DType dtype;
    std::shared_ptr<const Buffer> bytes;
  };
  std::string where_;
  Archive archive_;
  bool big_endian_ = false;
  std::shared_ptr<const Buffer> pickle_;  // the tree refers to it
  PickleTree tree_;
  std::unordered_map<std::string_view, Storage> storages_;
  uint64_t read_ = 0, copied_ = 0;
};

// The formats before PyTorch 1.6: a sequence of pickles that begins with this number, or a tar archive.
void refuse_older_formats(const fs::path& path) {
  std::array<char, 512> head{};
  std::ifstream file(path, std::ios::binary);
  file.read(head.data(), head.size());
  const std::string_view bytes(head.data(), static_cast<size_t>(file.gcount()));
  constexpr std::string_view number = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
  const bool pickles = bytes.starts_with('\x80') && bytes.substr(2, number.size()) == number;
  const bool tar = bytes.size() == head.size() && bytes.substr(257, 5) == "ustar";
  if (pickles || tar) {
    fail_input(
        "{0}: written in PyTorch's format from before 1.6; rewrite it: python3 -c \"import torch; "
        "torch.save(torch.load('{0}', map_location='cpu', weights_only=True), 'new.pth')\"",
        path.string());
  }
  if (bytes.starts_with('\x80')) {
    fail_input("{}: a bare pickle, not a file of torch.save", path.string());
  }
}

}  // namespace

StateDict read_pth(const fs::path& path, const std::string& key) {
  refuse_older_formats(path);
  return Loader(path).load(key);
}

}  // namespace vmamba
