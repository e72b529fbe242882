// libarchive behind ArchiveReader.
#include "lib/images/archives.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <ranges>
#include <unordered_map>

#include "kernels/error.h"
#include "lib/images/image.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/log.h"
#include "lib/support/text.h"

namespace vmamba {
namespace fs = std::filesystem;
namespace {

// libarchive converts names with the thread's locale and returns none for a name that the locale cannot represent.
class Utf8Locale {
 public:
  Utf8Locale() : before_(utf8() == locale_t{} ? locale_t{} : uselocale(utf8())) {}
  ~Utf8Locale() {
    if (before_ != locale_t{}) uselocale(before_);
  }
  Utf8Locale(const Utf8Locale&) = delete;
  Utf8Locale& operator=(const Utf8Locale&) = delete;

 private:
  static locale_t utf8() {
    static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", locale_t{});
    return locale;
  }
  locale_t before_;
};

std::string without_dot(std::string name) {
  while (name.starts_with("./")) name.erase(0, 2);
  return name;
}

// As in folders, names that begin with a dot are not looked at.
bool is_hidden(const std::string& name) {
  return std::ranges::any_of(fs::path(name), [](const fs::path& part) {
    return part.string().starts_with('.') && part != "." && part != "..";
  });
}

// WebDataset: a sample's key is the path up to the first dot of the file name.
std::string key_of(const std::string& name) {
  const size_t file = name.rfind('/') + 1;  // 0 without a slash
  return name.substr(0, name.find('.', file));
}

// "cls" of KEY.cls, "seg.png" of KEY.seg.png.
std::string field_of(const std::string& name) {
  const size_t key = key_of(name).size();
  return key == name.size() ? "" : lower_case(name.substr(key + 1));
}

// A number and a text may name one class; two numbers or two texts may not differ.
void check_labels_agree(const std::string& a, const std::string& b, const std::string& name) {
  const auto is_number = [](const std::string& text) {
    return text.find_first_not_of("0123456789") == std::string::npos;
  };
  if (!a.empty() && !b.empty() && a != b && is_number(a) == is_number(b))
    fail_input("{}: two labels that differ: {} and {}", name, in_quotes(printable(a)),
               in_quotes(printable(b)));
}

std::string label_in_json(const std::string& text, const std::string& name) {
  const nlohmann::ordered_json json = parse_shallow(text);
  if (!json.is_object()) fail_input("{}: not a JSON object", name);
  std::string label;
  for (const char* key : {"cls", "label", "class"}) {
    const auto found = json.find(key);
    if (found == json.end()) continue;
    if (!found->is_number_integer() && !found->is_string())
      fail_input("{}: {} is neither a number nor a text", name, key);
    const std::string one =
        found->is_string() ? found->get<std::string>() : std::to_string(found->get<int64_t>());
    check_labels_agree(label, one, name);
    if (label.empty()) label = one;
  }
  return label;
}

}  // namespace

struct ArchiveReader::Member {
  std::string name;
  bool is_file = false;
  int64_t bytes = 0;
  std::string damage;  // error of a header after which reading can continue
};

// Input of libarchive: a regular file, read in blocks at the requested offsets. gzip is decompressed here, from the
// beginning to the end, as libarchive does not check its CRC.
struct ArchiveReader::File {
  int descriptor = -1;
  int64_t at = 0, size = 0;
  std::vector<char> block;
  archive* handle = nullptr;
  bool is_gzip = false, in_gzip_member = false;
  z_stream gzip{};
  std::vector<char> plain;   // of gzip
  std::string gzip_error;    // for the read after the last of `plain`
  bool in_entry = false;     // the last header was that of a member
  int64_t end_of_entry = 0;  // in the decompressed archive

  ~File() {
    const Utf8Locale locale;
    archive_read_free(handle);
    if (is_gzip) inflateEnd(&gzip);
    if (descriptor >= 0) close(descriptor);
  }

  la_ssize_t fill_block() {
    bool retried = false;
    for (;;) {
      const ssize_t got = pread(descriptor, block.data(), block.size(), at);
      if (got >= 0) {
        at += got;
        return got;
      }
      if (errno == EINTR) continue;
      if (is_transient(errno) && !std::exchange(retried, true)) continue;
      archive_set_error(handle, errno, "%s", std::strerror(errno));
      return ARCHIVE_FATAL;
    }
  }

  // Reads on in the file; returns whether there is more.
  bool refill_gzip() {
    if (gzip.avail_in > 0) return true;
    const la_ssize_t got = fill_block();
    if (got < 0)
      gzip_error = archive_error_string(handle);
    else if (got == 0 && in_gzip_member)
      gzip_error = "gzip: cut off";
    gzip.next_in = reinterpret_cast<Bytef*>(block.data());
    gzip.avail_in = static_cast<uInt>(std::max<la_ssize_t>(got, 0));
    return got > 0;
  }

  // Fills `plain` from its beginning; returns how far.
  size_t decompress() {
    gzip.next_out = reinterpret_cast<Bytef*>(plain.data());
    gzip.avail_out = static_cast<uInt>(plain.size());
    while (gzip.avail_out > 0 && refill_gzip()) {
      if (!in_gzip_member && *gzip.next_in == 0) {  // padding
        ++gzip.next_in;
        --gzip.avail_in;
        continue;
      }
      in_gzip_member = true;
      const int status = inflate(&gzip, Z_NO_FLUSH);
      if (status == Z_STREAM_END) {
        in_gzip_member = false;  // another one may follow
        inflateReset(&gzip);
      } else if (status != Z_OK) {
        gzip_error = fmt::format("gzip: {}; what was read of the archive may be wrong",
                                 gzip.msg != nullptr ? gzip.msg : zError(status));
        break;
      }
    }
    return plain.size() - gzip.avail_out;
  }

  static la_ssize_t read(archive* handle, void* self, const void** bytes) {
    File& file = *static_cast<File*>(self);
    if (!file.is_gzip) {
      *bytes = file.block.data();
      return file.fill_block();
    }
    const size_t got = file.gzip_error.empty() ? file.decompress() : 0;
    *bytes = file.plain.data();
    if (got > 0 || file.gzip_error.empty()) return static_cast<la_ssize_t>(got);
    archive_set_error(handle, EINVAL, "%s", file.gzip_error.c_str());
    return ARCHIVE_FATAL;
  }
  static la_int64_t skip(archive*, void* self, la_int64_t count) {
    File& file = *static_cast<File*>(self);
    const int64_t skipped = std::clamp<int64_t>(count, 0, file.size - std::min(file.at, file.size));
    file.at += skipped;
    return skipped;
  }
  static la_int64_t seek(archive*, void* self, la_int64_t offset, int whence) {
    File& file = *static_cast<File*>(self);
    const int64_t from = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? file.at : file.size;
    if (offset < -from || offset > file.size - from) return ARCHIVE_FATAL;
    return file.at = from + offset;
  }
};

bool has_archive_ending(const fs::path& path) {
  const std::string name = lower_case(path.filename().string());
  return std::ranges::any_of(archive_endings | std::views::split(' '), [&](const auto& ending) {
    return name.ends_with(std::string_view(ending.begin(), ending.end()));
  });
}

namespace {

// The words of "A..B" (numbers, zero-padded to the width of A if A begins with 0) or "a,b,c"; empty: neither.
std::vector<std::string> words_in_braces(std::string_view text) {
  constexpr uint64_t most = 1'000'000;
  std::vector<std::string> words;
  const size_t dots = text.find("..");
  if (dots != text.npos) {
    const std::string_view ends[] = {text.substr(0, dots), text.substr(dots + 2)};
    const auto first = parse_number<uint64_t>(ends[0]), last = parse_number<uint64_t>(ends[1]);
    if (!first || !last) return {};
    if (*first > *last || *last - *first >= most)
      fail_input("{{{}}}: wanted a range of at most {} numbers that ascend", printable(text), most);
    const bool padded = ends[0].size() > 1 && ends[0][0] == '0';
    for (uint64_t i = *first; i <= *last; ++i)
      words.push_back(fmt::format("{:0{}}", i, padded ? ends[0].size() : 1));
  } else if (text.find(',') != text.npos) {
    for (size_t begin = 0; begin <= text.size();) {
      const size_t end = std::min(text.find(',', begin), text.size());
      words.emplace_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  return words;
}

}  // namespace

std::vector<std::string> expand_braces(const std::string& pattern) {
  constexpr size_t most = 1'000'000;
  std::vector<std::string> names{""};
  for (size_t at = 0; at < pattern.size();) {
    const size_t open = pattern.find('{', at), end = open == pattern.npos ? open : pattern.find('}', open);
    std::vector<std::string> words;
    if (end != pattern.npos)
      words = words_in_braces(std::string_view(pattern).substr(open + 1, end - open - 1));
    const size_t next = end == pattern.npos ? pattern.size() : end + 1;
    const std::string before = pattern.substr(at, (words.empty() ? next : open) - at);
    if (words.empty()) words.emplace_back();
    if (words.size() > most / names.size()) fail_input("{}: more than {} names", printable(pattern), most);
    std::vector<std::string> longer;
    for (const std::string& name : names)
      for (const std::string& word : words) longer.push_back(name + before + word);
    names = std::move(longer);
    at = next;
  }
  return names;
}

std::vector<std::string> archives_of(const std::string& argument) {
  std::error_code ignored;
  if (!has_archive_ending(argument) || fs::is_directory(argument, ignored)) return {};
  if (fs::exists(argument, ignored)) return {argument};
  return expand_braces(argument);
}

std::string member_name(const fs::path& archive, const std::string& member) {
  return archive.string() + ":" + member;
}

ArchiveReader::ArchiveReader(fs::path path, Reads reads) : path_(std::move(path)), file_(new File) {
  const auto failed = [&] { fail_input("{}: cannot be read: {}", path_.string(), std::strerror(errno)); };
  file_->descriptor = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat status {};
  if (file_->descriptor < 0 || fstat(file_->descriptor, &status) != 0) failed();
  if (!S_ISREG(status.st_mode))
    fail_input("{}: is not a file: an archive cannot be read from it", path_.string());
  check_not_replaced(path_, status);
  file_->size = status.st_size;
  constexpr int64_t small = 1 << 14, large = 1 << 20;
  file_->block.resize(
      static_cast<size_t>(reads == Reads::large ? std::clamp(file_->size, small, large) : small));
  const Utf8Locale locale;
  file_->handle = archive_read_new();
  if (file_->handle == nullptr) throw std::bad_alloc();
  archive* handle = file_->handle;
  archive_read_support_format_tar(handle);
  // Members behind an end of the archive (cat a.tar b.tar) are read, and so is the whole of a compressed file.
  archive_read_set_format_option(handle, "tar", "read_concatenated_archives", "1");
  archive_read_support_filter_bzip2(handle);
  archive_read_support_filter_xz(handle);
  archive_read_support_filter_zstd(handle);
  archive_read_set_callback_data(handle, file_.get());
  archive_read_set_read_callback(handle, File::read);
  char magic[2];
  if (pread(file_->descriptor, magic, sizeof magic, 0) == 2 && std::string_view(magic, 2) == "\x1f\x8b") {
    if (inflateInit2(&file_->gzip, 15 + 16) != Z_OK) throw std::bad_alloc();  // 16: with gzip's header
    file_->is_gzip = true;
    file_->plain.resize(1 << 18);
  } else {
    archive_read_support_format_zip(handle);
    archive_read_set_skip_callback(handle, File::skip);
    archive_read_set_seek_callback(handle, File::seek);
  }
  if (archive_read_open1(handle) != ARCHIVE_OK)
    fail_input("{}: not a tar or zip archive: {}", path_.string(), why());
}

ArchiveReader::~ArchiveReader() = default;

std::string ArchiveReader::why() const {
  const char* text = archive_error_string(file_->handle);
  return text == nullptr ? "it is damaged" : printable(text);
}

// What the end of the archive lacks, which libarchive has read without an error; empty: nothing.
std::string ArchiveReader::missing_end() const {
  const int format = archive_format(file_->handle) & ARCHIVE_FORMAT_BASE_MASK;
  if (format == ARCHIVE_FORMAT_TAR && archive_filter_bytes(file_->handle, 0) <= file_->end_of_entry)
    return "the blocks of zeros that end a tar";
  if (format != ARCHIVE_FORMAT_ZIP || archive_filter_count(file_->handle) > 1) return {};
  constexpr int64_t longest = 22 + 65535;  // with its comment
  lseek(file_->descriptor, std::max<int64_t>(0, file_->size - longest), SEEK_SET);
  const bool is_there = read_open_file(file_->descriptor, path_).find("PK\5\6") != std::string::npos;
  return is_there ? "" : "the record that ends a zip";
}

// InputError if the rest of the archive cannot be read.
std::optional<ArchiveReader::Member> ArchiveReader::next_member() {
  const Utf8Locale locale;
  archive_entry* entry = nullptr;
  int status = ARCHIVE_OK;
  if (std::exchange(file_->in_entry, false)) {
    status = archive_read_data_skip(file_->handle);
    file_->end_of_entry = archive_filter_bytes(file_->handle, 0);
  }
  if (status == ARCHIVE_OK || status == ARCHIVE_WARN)
    status = archive_read_next_header(file_->handle, &entry);
  if (status == ARCHIVE_EOF) {
    if (const std::string missing = missing_end(); !missing.empty())
      fail_input("{}: ends after {} without {}: cut off?", path_.string(), counted(images_, "image"),
                 missing);
    return std::nullopt;
  }
  const std::string damage =
      fmt::format("{}: damaged after {}: {}", path_.string(), counted(images_, "image"), why());
  if (status != ARCHIVE_OK && status != ARCHIVE_WARN && status != ARCHIVE_RETRY) throw InputError(damage);
  Member member;
  if (status == ARCHIVE_RETRY) {
    if (!std::exchange(damaged_, true))
      member.damage = damage;  // reported once for consecutive invalid blocks
    return member;
  }
  damaged_ = false;
  file_->in_entry = true;
  const char* name = archive_entry_pathname(entry);
  member.name = name == nullptr ? "" : without_dot(name);
  member.is_file = archive_entry_filetype(entry) == AE_IFREG && archive_entry_hardlink(entry) == nullptr;
  member.bytes = archive_entry_size_is_set(entry) ? archive_entry_size(entry) : 0;
  return member;
}

std::string ArchiveReader::read_data(const std::string& name, size_t most_bytes) {
  const Utf8Locale locale;
  std::string bytes;
  size_t used = 0;
  for (;;) {
    if (used == bytes.size()) bytes.resize(std::max<size_t>(2 * used, 1 << 16));
    const la_ssize_t got = archive_read_data(file_->handle, bytes.data() + used, bytes.size() - used);
    if (got == 0) break;
    if (got < 0) {
      const std::string reason = why();
      ended_ = got == ARCHIVE_FATAL;
      fail_input("{}: damaged: {}{}", member_name(path_, name), reason,
                 ended_ ? "; nothing behind it in the archive can be read" : "");
    }
    used += static_cast<size_t>(got);
    if (used > most_bytes)
      fail_input("{}: larger than {} bytes, the most that such a member may have", member_name(path_, name),
                 most_bytes);
  }
  bytes.resize(used);
  return bytes;
}

std::optional<ArchiveImage> ArchiveReader::image_of(const Member& member) {
  if (!member.damage.empty()) return ArchiveImage{{}, member.damage, images_++};
  if (!has_image_ending(member.name) || is_hidden(member.name)) return std::nullopt;
  ArchiveImage image{member.name, {}, images_++};
  const auto failed = [&](const std::string& reason) {
    image.error = fmt::format("{}: {}", member_name(path_, member.name), reason);
  };
  if (!names_.insert(member.name).second)
    failed("a member of this name stands before it in the archive");
  else if (!member.is_file)
    failed("is a link or a device, not a file with contents");
  else if (member.bytes < 0 || static_cast<uint64_t>(member.bytes) > max_file_bytes)
    failed(fmt::format("larger than {} bytes, the most that an image may have", max_file_bytes));
  return image;
}

std::optional<ArchiveImage> ArchiveReader::next() {
  try {
    while (!ended_) {
      const std::optional<Member> member = next_member();
      if (!member) break;
      current_ = member->name;
      if (auto image = image_of(*member)) return image;
    }
  } catch (const InputError& error) {
    ended_ = true;
    return ArchiveImage{{}, error.what(), images_++};
  }
  if (!std::exchange(ended_, true) && images_ == 0)
    return ArchiveImage{{}, fmt::format("{}: no image files in it ({})", path_.string(), image_endings), 0};
  return std::nullopt;
}

std::string ArchiveReader::read() {
  return read_data(current_, max_file_bytes);
}

// Collects the labels beside the images.
class ArchiveLister {
 public:
  explicit ArchiveLister(const fs::path& path) : reader_(path, ArchiveReader::Reads::headers) {}

  std::vector<ListedImage> list() {
    try {
      while (const auto member = reader_.next_member()) {
        if (auto image = reader_.image_of(*member))
          images_.push_back({std::move(*image), {}});
        else
          take_label(*member);
      }
    } catch (const InputError& error) {
      images_.push_back({{{}, error.what(), reader_.images_++}, {}});
    }
    if (!cls_.empty() || !json_.empty() || !wrong_.empty()) choose_images();
    for (ListedImage& listed : images_)
      for (const auto* labels : {&cls_, &json_}) {
        const auto found = labels->find(key_of(listed.image.name));
        if (found == labels->end()) continue;
        try {
          check_labels_agree(listed.label.value_or(""), found->second,
                             member_name(reader_.path_, listed.image.name));
        } catch (const InputError& error) {
          wrong_.emplace(found->first, error.what());
        }
        if (!listed.label) listed.label = found->second;
      }
    for (ListedImage& listed : images_) {
      const auto wrong = wrong_.find(key_of(listed.image.name));
      if (wrong != wrong_.end() && listed.image.error.empty()) listed.image.error = wrong->second;
    }
    if (images_.empty())
      images_.push_back(
          {{{}, fmt::format("{}: no image files in it ({})", reader_.path_.string(), image_endings), 0}, {}});
    return std::move(images_);
  }

 private:
  // Of a labelled sample's images, that with a simple field (KEY.png) is taken, KEY.seg.png beside it left out. Without
  // exactly one simple field all are wrong.
  void choose_images() {
    struct Sample {
      size_t images = 0, simple = 0;
    };
    const auto is_simple = [](const ListedImage& listed) {
      return field_of(listed.image.name).find('.') == std::string::npos;
    };
    std::unordered_map<std::string, Sample> samples;
    std::unordered_set<std::string> names;  // a repeated name is an error already
    for (const ListedImage& listed : images_) {
      if (!names.insert(listed.image.name).second) continue;
      Sample& sample = samples[key_of(listed.image.name)];
      ++sample.images;
      if (is_simple(listed)) ++sample.simple;
    }
    std::string first;
    const size_t left_out = std::erase_if(images_, [&](const ListedImage& listed) {
      const bool out =
          !listed.image.name.empty() && !is_simple(listed) && samples[key_of(listed.image.name)].simple == 1;
      if (out && first.empty()) first = listed.image.name;
      return out;
    });
    if (left_out > 0)
      log_remark(LogLevel::warning, "{}: left out, as the sample has an image with a simpler name{}",
                 printable(member_name(reader_.path_, first), 1000),
                 left_out == 1 ? "" : fmt::format("; so {} more", counted(left_out - 1, "image")));
    for (ListedImage& listed : images_) {
      ArchiveImage& image = listed.image;
      const Sample& sample = samples[key_of(image.name)];
      if (image.error.empty() && sample.images > 1 && sample.simple != 1)
        image.error = fmt::format("{}: one of {} of this sample: which one its label is of is unknown",
                                  member_name(reader_.path_, image.name), counted(sample.images, "image"));
    }
  }

  void take_label(const ArchiveReader::Member& member) {
    try {
      read_label(member);
    } catch (const InputError& error) {
      if (reader_.ended_) throw;
      wrong_.emplace(key_of(member.name), error.what());
    }
  }

  void read_label(const ArchiveReader::Member& member) {
    constexpr size_t most_bytes = size_t{1} << 20;
    const std::string field = field_of(member.name);
    if (!member.is_file || is_hidden(member.name) || (field != "cls" && field != "json")) return;
    std::string text = reader_.read_data(member.name, most_bytes);
    if (field == "json") {
      text = label_in_json(text, member_name(reader_.path_, member.name));
      if (text.empty()) return;
    } else {
      text.erase(0, std::min(text.find_first_not_of(" \t\r\n"), text.size()));
      text.erase(text.find_last_not_of(" \t\r\n") + 1);
    }
    const auto [label, is_new] = (field == "json" ? json_ : cls_).emplace(key_of(member.name), text);
    if (!is_new) check_labels_agree(label->second, text, member_name(reader_.path_, member.name));
  }

  ArchiveReader reader_;
  std::vector<ListedImage> images_;
  std::unordered_map<std::string, std::string> cls_, json_,
      wrong_;  // by key; wrong_: why a label cannot be read
};

std::vector<ListedImage> list_archive(const fs::path& path) {
  try {
    return ArchiveLister(path).list();
  } catch (const ReplacesInput&) {
    throw;
  } catch (const InputError& error) {
    return {{{{}, error.what(), 0}, {}}};
  }
}

}  // namespace vmamba
