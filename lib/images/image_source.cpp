// Path lists from arguments and standard input, and the decoder threads.
#include "lib/images/image_source.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <system_error>
#include <utility>

#include "kernels/error.h"
#include "lib/images/archives.h"
#include "lib/images/image.h"
#include "lib/images/preprocess.h"
#include "lib/support/files.h"
#include "lib/support/sha256.h"
#include "lib/support/text.h"

namespace vmamba {
namespace fs = std::filesystem;
namespace {

// The paths listed on standard input, returned as they arrive.
class StandardInput {
 public:
  explicit StandardInput(char end) : end_(end) {}

  std::optional<std::string> path(const std::atomic<bool>& stop) {
    for (;;) {
      const size_t end = buffer_.find(end_, begin_);
      if (end != std::string::npos || (ended_ && begin_ < buffer_.size())) {
        std::string line = buffer_.substr(begin_, std::min(end, buffer_.size()) - begin_);
        begin_ = end == std::string::npos ? buffer_.size() : end + 1;
        if (end_ == '\n') check_line(line);
        if (!line.empty()) return line;
        continue;
      }
      buffer_.erase(0, begin_);
      begin_ = 0;
      if (ended_ || !read_more(stop)) return std::nullopt;
    }
  }

 private:
  static void check_line(std::string& line) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.find('\0') != std::string::npos)
      fail_input("standard input: a NUL in the list of paths: give -0 for a list that is separated by NUL");
  }

  // Refuses images and archives: no path begins with a signature and contains control characters.
  void check_is_list() const {
    const std::string_view format = image_format_of(buffer_);
    const auto is_binary = [&](char c) {
      return static_cast<uint8_t>(c) < ' ' && c != '\n' && c != '\r' && c != '\t' &&
             (c != '\0' || end_ != '\0');
    };
    if (!std::ranges::any_of(buffer_, is_binary)) return;
    if (buffer_.starts_with("\x1f\x8b") || buffer_.starts_with("PK") ||
        buffer_.substr(0, 262).ends_with("ustar"))
      fail_input("standard input is an archive, where a list of paths is wanted: give its name instead of -");
    if (!format.empty())
      fail_input(
          "standard input is a {} image, where a list of paths is wanted: give /dev/stdin instead of -",
          format);
  }

  bool read_more(const std::atomic<bool>& stop) {
    constexpr size_t longest_line = 1 << 20;
    if (buffer_.size() > longest_line)
      fail_input("standard input: a path of more than {} bytes", longest_line);
    pollfd input{STDIN_FILENO, POLLIN, 0};
    while (!stop) {
      const int ready = ::poll(&input, 1, 100);  // milliseconds between checks of `stop`
      if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
      char bytes[65536];
      const ssize_t got = ready < 0 ? -1 : ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (got < 0) fail_input("standard input cannot be read: {}", std::strerror(errno));
      buffer_.append(bytes, static_cast<size_t>(got));
      if (!std::exchange(begun_, true)) {
        if (buffer_.starts_with("\xef\xbb\xbf")) buffer_.erase(0, 3);  // a byte order mark
        check_is_list();
      }
      ended_ = got == 0;
      return true;
    }
    return false;
  }

  const char end_;
  std::string buffer_;
  size_t begin_ = 0;  // offset of the first path not yet returned
  bool begun_ = false, ended_ = false;
};

// The contents of the member that `archive` stands at.
InputPath read_member(ArchiveReader& archive, const fs::path& path, ArchiveImage image) {
  InputPath member{image.name.empty() ? path : fs::path(member_name(path, image.name)),
                   std::move(image.error)};
  if (!member.error.empty()) return member;
  try {
    member.bytes = archive.read();
  } catch (const InputError& error) {
    member.error = error.what();
  } catch (const std::bad_alloc&) {
    member.error = fmt::format("{}: not enough memory to read it", member.file.string());
  }
  return member;
}

EncodedImage open_image_again(const fs::path& file, const std::atomic<bool>& stop) {
  try {
    return open_image(file, &stop);
  } catch (const ReadError& error) {
    if (!is_transient(error.number)) throw;
    spdlog::warn("{}; trying once more", printable(error.what(), 1000));
  }
  return open_image(file, &stop);
}

// A file, an archive, or what cannot be listed.
struct NamedInput {
  fs::path path;
  std::string error;
  bool is_archive = false;
  size_t position = 0;  // among all files and archives
};

// The files and archives that the arguments name, of one part.
class ArgumentInputs {
 public:
  ArgumentInputs(std::vector<std::string> arguments, char end, const InputPart& part)
      : arguments_(std::move(arguments)), part_(part), input_(end) {
    if (std::ranges::count(arguments_, "-") > 1) fail_input("-: given twice; standard input is one list");
  }

  std::optional<NamedInput> next(const std::atomic<bool>& stop) {
    for (;;) {
      std::optional<NamedInput> input = next_of_all(stop);
      if (!input || take(*input)) return input;
    }
  }

 private:
  // From the command line, or, where that says "-", from standard input.
  std::optional<std::string> next_argument(const std::atomic<bool>& stop) {
    for (;;) {
      if (in_list_) {
        if (auto path = input_.path(stop)) return path;
        in_list_ = false;
      }
      if (used_ == arguments_.size()) return std::nullopt;
      if (arguments_[used_++] != "-") return arguments_[used_ - 1];
      struct stat status {};
      if (fstat(STDIN_FILENO, &status) == 0) check_not_replaced("standard input", status);
      in_list_ = true;
    }
  }

  std::optional<NamedInput> next_of_all(const std::atomic<bool>& stop) {
    for (;;) {
      if (used_unread_ < listed_.unread.size()) return NamedInput{folder_, listed_.unread[used_unread_++]};
      if (used_images_ < listed_.images.size()) {
        const std::string& name = listed_.images[used_images_++];
        NamedInput input{folder_ / name, listed_.error_of(name)};
        input.is_archive = has_archive_ending(input.path);
        return input;
      }
      const std::optional<std::string> argument = next_argument(stop);
      if (!argument) return std::nullopt;
      try {
        list(*argument);
      } catch (const InputError& error) {
        return NamedInput{*argument, error.what()};
      }
    }
  }

  // Counts a file or an archive, and returns whether it is to be read.
  bool take(NamedInput& input) {
    input.position = files_ + archives_;
    ++part_.seen->count;
    const std::string name = input.path.string();
    if (part_.seen->names) {
      part_.seen->names->add(static_cast<int64_t>(name.size()));
      part_.seen->names->add(name);
    }
    if (!part_.shard.has(input.is_archive ? archives_++ : files_++)) return false;
    const bool is_done = part_.after && (input.position < part_.after->input ||
                                         (input.position == part_.after->input && !input.is_archive));
    if (is_done && part_.skipped) part_.skipped({{input.position, 0}, name, input.is_archive});
    return !is_done;
  }

  void list(const std::string& argument) {
    listed_ = {};
    used_images_ = used_unread_ = 0;
    folder_.clear();
    std::error_code ignored;
    if (!fs::is_directory(argument, ignored)) {
      listed_.images = archives_of(argument);
      if (listed_.images.empty()) listed_.images = {argument};
      return;
    }
    FolderFiles files = folder_files(argument);
    log_left_out(argument, files.others);
    if (files.images.empty() && files.unread.empty())
      fail_input("{}: no image files in this folder ({})", argument, image_endings);
    folder_ = argument;
    listed_ = std::move(files);
  }

  std::vector<std::string> arguments_;
  size_t used_ = 0;
  fs::path folder_;     // that is listed; empty: none
  FolderFiles listed_;  // of it; else a file, or archives
  size_t used_images_ = 0, used_unread_ = 0;
  bool in_list_ = false;
  const InputPart part_;
  size_t files_ = 0, archives_ = 0;  // so far, of all shards
  StandardInput input_;
};

class ArgumentPaths {
 public:
  ArgumentPaths(std::vector<std::string> arguments, char end, const InputPart& part)
      : inputs_(std::move(arguments), end, part), part_(part) {}

  std::optional<InputPath> next(const std::atomic<bool>& stop) {
    for (;;) {
      if (archive_) {
        if (auto member = next_member()) return member;
        archive_.reset();
      }
      std::optional<NamedInput> input = inputs_.next(stop);
      if (!input) return std::nullopt;
      position_ = {input->position, 0};
      if (!input->is_archive)
        return InputPath{std::move(input->path), std::move(input->error), {}, position_};
      try {
        archive_.emplace(input->path);
        archive_path_ = input->path;
      } catch (const ReplacesInput&) {
        throw;
      } catch (const InputError& error) {
        if (!skip(input->path.string())) return InputPath{input->path, error.what(), {}, position_};
      }
    }
  }

 private:
  std::optional<InputPath> next_member() {
    std::optional<ArchiveImage> image;
    do {
      image = archive_->next();
      if (!image) return std::nullopt;
      position_.member = image->place;
    } while (skip(image->name.empty() ? archive_path_.string() : member_name(archive_path_, image->name)));
    InputPath member = read_member(*archive_, archive_path_, std::move(*image));
    member.position = position_;
    return member;
  }

  // Whether what is at position_ is to be skipped.
  bool skip(const std::string& name) const {
    const bool is_done = part_.after && position_ <= *part_.after;
    if (is_done && part_.skipped) part_.skipped({position_, name});
    return is_done;
  }

  ArgumentInputs inputs_;
  const InputPart part_;
  InputPosition position_;
  std::optional<ArchiveReader> archive_;  // being read
  fs::path archive_path_;
};

class ListedImages {
 public:
  explicit ListedImages(std::function<std::optional<ImageRef>()> next_image)
      : next_image_(std::move(next_image)) {}

  std::optional<InputPath> next() {
    const std::optional<ImageRef> listed = next_image_();
    if (!listed) return std::nullopt;
    const ImageRef& image = *listed;
    const std::string name = name_of(image);
    if (image.member.empty() || !image.error.empty()) return InputPath{name, image.error};
    try {
      if (!archive_ || image.file != path_ || image.place < next_place_) {
        archive_.emplace(image.file);
        path_ = image.file;
        next_place_ = 0;
      }
      std::optional<ArchiveImage> member;
      do {
        member = archive_->next();
      } while (next_place_++ < image.place && member);
      if (!member || member->name != image.member)
        fail_input("{}: the archive has changed since it was listed", name);
      return read_member(*archive_, image.file, std::move(*member));
    } catch (const ReplacesInput&) {
      throw;
    } catch (const InputError& error) {
      archive_.reset();
      return InputPath{name, error.what()};
    }
  }

 private:
  const std::function<std::optional<ImageRef>()> next_image_;
  size_t next_place_ = 0;
  std::optional<ArchiveReader> archive_;
  std::string path_;  // of archive_
};

// The order of fs::path, part by part: what is in a folder stands before a file whose name continues the folder's.
bool path_before(const std::string& a, const std::string& b) {
  const auto [in_a, in_b] = std::ranges::mismatch(a, b);
  if (in_a == a.end() || in_b == b.end()) return in_a == a.end() && in_b != b.end();
  const auto rank = [](char c) { return c == '/' ? 0 : static_cast<uint8_t>(c); };
  return rank(*in_a) < rank(*in_b);
}

}  // namespace

std::string FolderFiles::error_of(const std::string& image) const {
  const auto found = errors.find(image);
  return found == errors.end() ? "" : found->second;
}

FolderFiles folder_files(const fs::path& folder, const fs::path& set) {
  struct Listed {
    std::string inside;  // relative to `folder`: empty or with a slash at its end
    size_t parent = 0;
    struct stat status;
  };
  FolderFiles files;
  struct stat status {};
  const auto cannot_be_listed = [](const fs::path& path, const std::string& reason) {
    return fmt::format("{}: cannot be listed: {}", path.string(), reason);
  };
  std::vector<Listed> folders;
  // Whether it is folders[i] or holds it.
  const auto is_above = [&](const struct stat& other, size_t i) {
    for (;; i = folders[i].parent) {
      if (folders[i].status.st_dev == other.st_dev && folders[i].status.st_ino == other.st_ino) return true;
      if (i == 0) return false;
    }
  };
  // What holds the input: no link in it is followed to there.
  std::error_code unknown;
  fs::path above = fs::canonical(set.empty() ? folder : set, unknown);
  if (set.empty()) above = above.parent_path();
  fs::path reached;
  for (const fs::path& part : above) {
    reached /= part;
    if (stat(reached.c_str(), &status) == 0)
      folders.push_back({"", folders.empty() ? 0 : folders.size() - 1, status});
  }
  const size_t first = folders.size();
  if (stat(folder.c_str(), &status) != 0) fail_input("{}", cannot_be_listed(folder, std::strerror(errno)));
  if (!set.empty() && first > 0 && is_above(status, first - 1))
    fail_input("{}", cannot_be_listed(folder, "links to a folder that it is in"));
  folders.push_back({"", first > 0 ? first - 1 : 0, status});
  for (size_t i = first; i < folders.size(); ++i) {
    const std::string inside = folders[i].inside;
    const fs::path listed = inside.empty() ? folder : folder / inside.substr(0, inside.size() - 1);
    std::error_code error;
    for (fs::directory_iterator entry(listed, error); !error && entry != fs::directory_iterator();
         entry.increment(error)) {
      std::error_code ignored;
      const std::string& path = entry->path().native();
      const std::string name = path.substr(path.rfind('/') + 1);
      if (name.starts_with('.')) continue;
      const bool is_image = has_image_ending(name);
      // Most file systems name the type of a file: no stat then.
      if (entry->is_regular_file(ignored)) {
        if (is_image)
          files.images.push_back(inside + name);
        else
          ++files.others;
      } else if (stat(path.c_str(), &status) != 0) {
        if (is_image)
          files.images.push_back(inside + name);  // which reading it reports
        else
          files.unread.push_back(cannot_be_listed(path, std::strerror(errno)));
      } else if (S_ISDIR(status.st_mode)) {
        if (is_above(status, i))
          spdlog::warn("{}: links to a folder that it is in: not followed", printable(path, 1000));
        else
          folders.push_back({inside + name + '/', i, status});
      } else if (is_image) {
        files.images.push_back(inside + name);
        if (!S_ISREG(status.st_mode))
          files.errors.emplace(inside + name, path + ": cannot be read: not a regular file");
      }
    }
    if (!error) continue;
    if (inside.empty()) fail_input("{}", cannot_be_listed(listed, error.message()));
    files.unread.push_back(cannot_be_listed(listed, error.message()));
  }
  std::sort(files.images.begin(), files.images.end(), path_before);
  std::sort(files.unread.begin(), files.unread.end());
  return files;
}

void log_left_out(const std::string& folder, size_t others) {
  if (others > 0)
    spdlog::info("{}: {} {} no image by {} ending and left out", printable(folder, 1000), others,
                 others == 1 ? "file is" : "files are", others == 1 ? "its" : "their");
}

NextPath input_paths(std::vector<std::string> arguments, char end, const InputPart& part) {
  auto paths = std::make_shared<ArgumentPaths>(std::move(arguments), end, part);
  return [paths](const std::atomic<bool>& stop) { return paths->next(stop); };
}

std::string name_of(const ImageRef& image) {
  return image.member.empty() ? image.file : member_name(image.file, image.member);
}

std::vector<ImageRef> list_images(std::vector<std::string> arguments, const Shard& shard) {
  ArgumentInputs inputs(std::move(arguments), '\n', {shard, {}});
  std::vector<ImageRef> images;
  while (const std::optional<NamedInput> input = inputs.next(false)) {
    const std::string path = input->path.string();
    if (!input->is_archive) {
      images.push_back({path, {}, 0, input->error});
      continue;
    }
    for (ListedImage& listed : list_archive(path))
      images.push_back(
          {path, std::move(listed.image.name), listed.image.place, std::move(listed.image.error)});
  }
  return images;
}

NextPath listed_images(std::function<std::optional<ImageRef>()> next_image) {
  auto listed = std::make_shared<ListedImages>(std::move(next_image));
  return [listed](const std::atomic<bool>&) { return listed->next(); };
}

NextPath listed_images(std::vector<ImageRef> images) {
  return listed_images([images = std::move(images), used = size_t{0}]() mutable -> std::optional<ImageRef> {
    if (used == images.size()) return std::nullopt;
    return std::move(images[used++]);
  });
}

namespace {

void decode_crop(const EncodedImage& encoded, const PreprocessConfig& preprocess, std::span<uint8_t> pixels) {
  const Image image = decode_image(encoded);
  try {
    resize_and_crop(image, preprocess, pixels);
  } catch (const InputError& error) {
    fail_input("{}: {}", encoded.name, error.what());
  }
}

}  // namespace

void decode_packed(ImageBatch& batch, const std::vector<int64_t>& places,
                   const PreprocessConfig& preprocess) {
  const size_t image_bytes = size_t{3} * preprocess.crop * preprocess.crop;
  auto wanted = places.begin();
  int64_t place = 0;
  size_t kept = 0;  // images that stay in the batch
  for (ImageBatch::Item& item : batch.items) {
    if (!item.error.empty()) continue;
    uint8_t* pixels = batch.pixels.data() + static_cast<size_t>(place) * image_bytes;
    if (wanted != places.end() && *wanted == place) {
      ++wanted;
      item.packed.clear();
      try {
        decode_crop(item.encoded, preprocess, std::span(pixels, image_bytes));
      } catch (const InputError& error) {
        item.error = error.what();
      } catch (const std::bad_alloc&) {
        item.error = fmt::format("{}: not enough memory to decode it", item.file.string());
      }
    }
    if (item.error.empty() && kept++ != static_cast<size_t>(place))
      std::memcpy(batch.pixels.data() + (kept - 1) * image_bytes, pixels, image_bytes);
    ++place;
  }
  batch.images = static_cast<int>(kept);
}

HostTensor normalized(const ImageBatch& batch, const PreprocessConfig& preprocess) {
  for (const ImageBatch::Item& item : batch.items)
    if (!item.error.empty()) fail_input("{}", item.error);
  const size_t each = size_t{3} * preprocess.crop * preprocess.crop;
  HostTensor result{{batch.images, 3, preprocess.crop, preprocess.crop}, {}};
  result.values.resize(each * batch.items.size());
  for (size_t i = 0; i < batch.items.size(); ++i)
    normalize_chw(std::span(batch.pixels).subspan(i * each, each), preprocess,
                  std::span(result.values).subspan(i * each, each));
  return result;
}

HostTensor preprocessed(std::vector<ImageRef> images, const PreprocessConfig& preprocess) {
  const auto count = static_cast<int>(images.size());
  ImageSource source(listed_images(std::move(images)), preprocess, count, 1);
  ImageBatch batch;
  source.next_whole(batch);
  return normalized(batch, preprocess);
}

ImageSource::ImageSource(NextPath next_path, const PreprocessConfig& preprocess, int batch_size, int threads,
                         JpegDecoding jpegs, ImageSums sums)
    : next_path_(std::move(next_path)),
      preprocess_(preprocess),
      batch_size_(static_cast<size_t>(batch_size)),
      image_bytes_(size_t{3} * preprocess.crop * preprocess.crop),
      jpegs_(jpegs),
      sums_(sums) {
  check(batch_size > 0 && threads > 0, "batches of {} by {} threads", batch_size, threads);
  ring_.resize(2 + 2 * static_cast<size_t>(threads) / batch_size_);
  for (int i = 0; i < threads; ++i) {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {  // out of threads: continue with fewer
      if (threads_.empty()) fail_machine("no thread for decoding: {}", error.what());
      break;
    }
  }
}

ImageSource::~ImageSource() {
  stop();
  for (std::thread& thread : threads_) thread.join();
}

void ImageSource::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = exhausted_ = true;
  }
  space_.notify_all();
  ready_.notify_all();
}

bool ImageSource::is_complete(const Ahead& ahead) const {
  return failure_ || (ahead.done == ahead.given && (ahead.given == batch_size_ || exhausted_));
}

bool ImageSource::next(ImageBatch& batch) {
  constexpr auto patience =
      std::chrono::milliseconds(50);  // longest wait for a path before a partial batch is returned
  std::unique_lock lock(mutex_);
  const Ahead& ahead = ring_[taken_ % ring_.size()];
  while (!ready_.wait_for(lock, patience, [&] { return is_complete(ahead); }))
    if (asking_ && ahead.given > 0 && ahead.done == ahead.given) break;
  return hand_out(batch, lock);
}

bool ImageSource::next_whole(ImageBatch& batch) {
  std::unique_lock lock(mutex_);
  const Ahead& ahead = ring_[taken_ % ring_.size()];
  ready_.wait(lock, [&] { return is_complete(ahead); });
  return hand_out(batch, lock);
}

bool ImageSource::hand_out(ImageBatch& batch, std::unique_lock<std::mutex>& lock) {
  if (failure_) std::rethrow_exception(failure_);
  Ahead& ahead = ring_[taken_ % ring_.size()];
  if (filling_ == taken_) ++filling_;
  ++taken_;
  std::swap(batch, ahead.batch);
  batch.items.resize(ahead.given);
  batch.images = 0;
  for (size_t i = 0; i < batch.items.size(); ++i) {
    if (!batch.items[i].error.empty()) continue;
    uint8_t* place = batch.pixels.data() + static_cast<size_t>(batch.images++) * image_bytes_;
    if (place != batch.pixels.data() + i * image_bytes_)
      std::memcpy(place, batch.pixels.data() + i * image_bytes_, image_bytes_);
  }
  ahead.given = ahead.done = 0;
  lock.unlock();
  space_.notify_one();
  return !batch.items.empty();
}

void ImageSource::work() {
  try {
    for (;;) {
      std::unique_lock input(input_);
      std::unique_lock lock(mutex_);
      space_.wait(lock, [&] { return stop_ || exhausted_ || filling_ - taken_ < ring_.size(); });
      if (stop_ || exhausted_) return;
      asking_ = true;
      lock.unlock();
      std::optional<InputPath> path = next_path_(stop_);
      lock.lock();
      asking_ = false;
      if (!path) {
        exhausted_ = true;
        lock.unlock();
        ready_.notify_all();
        return;
      }
      Ahead& ahead = ring_[filling_ % ring_.size()];
      make_room(ahead, lock);
      if (stop_) return;
      const size_t place = ahead.given++;
      ahead.batch.items[place].index = given_++;
      if (ahead.given == batch_size_) ++filling_;
      lock.unlock();
      input.unlock();
      // No other thread accesses this item or its pixels until all items of the batch are done.
      fill(ahead.batch.items[place], std::move(*path), ahead.batch.pixels.data() + place * image_bytes_);
      lock.lock();
      ++ahead.done;
      lock.unlock();
      ready_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
    stop_ = true;
    ready_.notify_all();
    space_.notify_all();
  }
}

// Grows a large batch in steps as images arrive. No thread may be filling it while it is reallocated.
void ImageSource::make_room(Ahead& ahead, std::unique_lock<std::mutex>& lock) {
  constexpr size_t at_first = 256;
  std::vector<ImageBatch::Item>& items = ahead.batch.items;
  if (ahead.given == 0) items.clear();
  if (ahead.given < items.size()) return;
  ready_.wait(lock, [&] { return stop_ || ahead.done == ahead.given; });
  if (stop_) return;
  items.resize(std::min(batch_size_, std::max(at_first, 2 * items.size())));
  if (ahead.batch.pixels.size() < items.size() * image_bytes_)
    ahead.batch.pixels.resize(items.size() * image_bytes_);
}

void ImageSource::fill(ImageBatch::Item& item, InputPath path, uint8_t* pixels) {
  item.file = std::move(path.file);
  item.error = std::move(path.error);
  item.position = path.position;
  if (!item.error.empty()) return;
  try {
    EncodedImage encoded = path.bytes ? parse_image(std::move(*path.bytes), item.file.string())
                                      : open_image_again(item.file, stop_);
    if (sums_ == ImageSums::sha256) item.sha256 = sha256(encoded.bytes);
    if (jpegs_ == JpegDecoding::on_device && pack_jpeg(encoded, preprocess_, item.packed)) {
      item.encoded = std::move(encoded);
      return;
    }
    item.packed.clear();
    std::unique_lock<std::mutex> alone;
    if (encoded.pixels() > large_pixels) alone = std::unique_lock(large_);
    decode_crop(encoded, preprocess_, std::span(pixels, image_bytes_));
  } catch (const ReplacesInput&) {
    throw;  // the command's own error
  } catch (const InputError& error) {
    item.error = error.what();
  } catch (const std::bad_alloc&) {
    item.error = fmt::format("{}: not enough memory to decode it", item.file.string());
  }
}

}  // namespace vmamba
