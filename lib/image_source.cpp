#include "lib/image_source.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <system_error>

#include "kernels/error.h"
#include "lib/image.h"
#include "lib/preprocess.h"

namespace vmamba {
namespace fs = std::filesystem;
namespace {

// Lines of standard input, as they come.
class StandardInput {
 public:
  std::optional<std::string> line(const std::atomic<bool>& stop) {
    for (;;) {
      const size_t end = buffer_.find('\n', begin_);
      if (end != std::string::npos || (ended_ && begin_ < buffer_.size())) {
        std::string line = buffer_.substr(begin_, std::min(end, buffer_.size()) - begin_);
        begin_ = end == std::string::npos ? buffer_.size() : end + 1;
        if (line.ends_with('\r')) line.pop_back();
        if (!line.empty()) return line;
        continue;
      }
      buffer_.erase(0, begin_);
      begin_ = 0;
      if (ended_ || !read_more(stop)) return std::nullopt;
    }
  }

 private:
  bool read_more(const std::atomic<bool>& stop) {
    constexpr size_t longest_line = 1 << 20;
    if (buffer_.size() > longest_line)
      fail_input("standard input: a line of more than {} bytes", longest_line);
    pollfd input{STDIN_FILENO, POLLIN, 0};
    while (!stop) {
      const int ready = ::poll(&input, 1, 100);  // milliseconds until `stop` is looked at again
      if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
      char bytes[65536];
      const ssize_t got = ready < 0 ? -1 : ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (got < 0) fail_input("standard input cannot be read: {}", std::strerror(errno));
      buffer_.append(bytes, static_cast<size_t>(got));
      ended_ = got == 0;
      return true;
    }
    return false;
  }

  std::string buffer_;
  size_t begin_ = 0;  // of the first line not yet given
  bool ended_ = false;
};

class ArgumentPaths {
 public:
  explicit ArgumentPaths(std::vector<std::string> arguments) : arguments_(std::move(arguments)) {}

  std::optional<InputPath> next(const std::atomic<bool>& stop) {
    for (;;) {
      if (!listed_.empty()) {
        InputPath path{std::move(listed_.front()), {}};
        listed_.pop_front();
        return path;
      }
      std::string argument;
      if (in_list_) {
        auto line = input_.line(stop);
        if (!line) {
          in_list_ = false;
          continue;
        }
        argument = std::move(*line);
      } else {
        if (used_ == arguments_.size()) return std::nullopt;
        argument = arguments_[used_++];
        if (argument == "-") {
          in_list_ = true;
          continue;
        }
      }
      std::error_code ignored;
      if (!fs::is_directory(argument, ignored)) return InputPath{argument, {}};
      try {
        const std::vector<fs::path> files = image_files(argument);
        if (files.empty())
          return InputPath{
              argument,
              fmt::format("{}: no image files in this folder (.jpg .png .webp .bmp .gif)", argument)};
        listed_.assign(files.begin(), files.end());
      } catch (const InputError& error) {
        return InputPath{argument, error.what()};
      }
    }
  }

 private:
  std::vector<std::string> arguments_;
  size_t used_ = 0;
  std::deque<fs::path> listed_;
  bool in_list_ = false;
  StandardInput input_;
};

}  // namespace

std::vector<fs::path> image_files(const fs::path& folder) {
  std::vector<fs::path> files;
  try {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
      std::error_code ignored;
      if (has_image_ending(entry.path()) && entry.is_regular_file(ignored)) files.push_back(entry.path());
    }
  } catch (const fs::filesystem_error& error) {
    fail_input("{}: cannot be listed: {}", error.path1().empty() ? folder.string() : error.path1().string(),
               error.code().message());
  }
  std::sort(files.begin(), files.end());
  return files;
}

NextPath input_paths(std::vector<std::string> arguments) {
  auto paths = std::make_shared<ArgumentPaths>(std::move(arguments));
  return [paths](const std::atomic<bool>& stop) { return paths->next(stop); };
}

NextPath file_paths(std::vector<fs::path> files) {
  return [files = std::move(files),
          used = size_t{0}](const std::atomic<bool>&) mutable -> std::optional<InputPath> {
    if (used == files.size()) return std::nullopt;
    return InputPath{files[used++], {}};
  };
}

ImageSource::ImageSource(NextPath next_path, const PreprocessConfig& preprocess, int batch_size, int threads)
    : next_path_(std::move(next_path)), preprocess_(preprocess), batch_size_(batch_size) {
  check(batch_size > 0 && threads > 0, "batches of {} by {} threads", batch_size, threads);
  slots_.resize(2 * (static_cast<size_t>(batch_size) + static_cast<size_t>(threads)));
  for (int i = 0; i < threads; ++i) {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {  // the system has no more threads: fewer do as well
      if (threads_.empty()) fail_machine("no thread for decoding: {}", error.what());
      break;
    }
  }
}

ImageSource::~ImageSource() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  space_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool ImageSource::next(ImageBatch& batch) {
  batch.items.clear();
  batch.pixels.clear();
  batch.images = 0;
  const size_t most_items = 4 * static_cast<size_t>(batch_size_);
  while (batch.images < batch_size_ && batch.items.size() < most_items) {
    std::unique_lock lock(mutex_);
    Slot& slot = slots_[taken_ % slots_.size()];
    ready_.wait(lock, [&] { return failure_ || slot.ready || (exhausted_ && taken_ == given_); });
    if (failure_) std::rethrow_exception(failure_);
    if (!slot.ready) break;
    lock.unlock();  // nobody touches a ready slot until it is taken
    if (slot.item.error.empty()) {
      batch.pixels.insert(batch.pixels.end(), slot.pixels.begin(), slot.pixels.end());
      ++batch.images;
    }
    batch.items.push_back(std::move(slot.item));
    lock.lock();
    slot.ready = false;
    ++taken_;
    lock.unlock();
    space_.notify_one();
  }
  return !batch.items.empty();
}

void ImageSource::work() {
  try {
    for (;;) {
      std::unique_lock input(input_);
      {
        std::unique_lock lock(mutex_);
        space_.wait(lock, [&] { return stop_ || exhausted_ || given_ - taken_ < slots_.size(); });
        if (stop_ || exhausted_) return;
      }
      std::optional<InputPath> path = next_path_(stop_);
      std::unique_lock lock(mutex_);
      if (!path) {
        exhausted_ = true;
        lock.unlock();
        ready_.notify_all();
        return;
      }
      Slot& slot = slots_[given_ % slots_.size()];
      slot.item.index = given_++;
      lock.unlock();
      input.unlock();
      fill(slot, std::move(*path));
      lock.lock();
      slot.ready = true;
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

void ImageSource::fill(Slot& slot, InputPath path) {
  slot.item.file = std::move(path.file);
  slot.item.error = std::move(path.error);
  if (!slot.item.error.empty()) return;
  try {
    EncodedImage encoded = open_image(slot.item.file);
    std::unique_lock<std::mutex> alone;
    if (encoded.pixels() > large_pixels) alone = std::unique_lock(large_);
    const Image image = decode_image(encoded);
    slot.pixels.resize(size_t{3} * preprocess_.crop * preprocess_.crop);
    try {
      resize_and_crop(image, preprocess_, slot.pixels);
    } catch (const InputError& error) {
      fail_input("{}: {}", encoded.name, error.what());
    }
  } catch (const InputError& error) {
    slot.item.error = error.what();
  } catch (const std::bad_alloc&) {
    slot.item.error = fmt::format("{}: not enough memory to decode it", slot.item.file.string());
  }
}

}  // namespace vmamba
