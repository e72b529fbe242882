// From what a command line names to batches of crops: paths are listed, files decoded, resized and cropped on
// several threads ahead of the model, and handed out in input order. Memory is bounded: `ahead` crops, and
// one decoded image a thread (one in all, of those above large_pixels).
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "lib/config.h"

namespace vmamba {

// A path to try, or, with an error, one that is known not to hold an image.
struct InputPath {
  std::filesystem::path file;
  std::string error;
};
// The next path, or none after the last. One call at a time, from any thread; gives up waiting once `stop` is
// set.
using NextPath = std::function<std::optional<InputPath>(const std::atomic<bool>& stop)>;

// The image files that arguments name, in order: a file is itself; a folder all image files in it and below,
// sorted by path; "-" the files and folders that standard input lists, one a line, taken up as they come.
NextPath input_paths(std::vector<std::string> arguments);
NextPath file_paths(std::vector<std::filesystem::path> files);
// All image files in a folder and below, sorted by path. InputError where it cannot be read.
std::vector<std::filesystem::path> image_files(const std::filesystem::path& folder);

struct ImageBatch {
  struct Item {
    size_t index = 0;  // place in the input
    std::filesystem::path file;
    std::string error;  // why there are no pixels of it; empty: there are
  };
  std::vector<Item> items;      // in input order
  std::vector<uint8_t> pixels;  // of the items without an error: images · crop · crop · 3
  int images = 0;
};

class ImageSource {
 public:
  ImageSource(NextPath next_path, const PreprocessConfig& preprocess, int batch_size, int threads);
  ~ImageSource();
  ImageSource(const ImageSource&) = delete;
  ImageSource& operator=(const ImageSource&) = delete;

  // The next batch: batch_size images, fewer at the end or among many that could not be read. False: there is
  // no more.
  bool next(ImageBatch& batch);

 private:
  struct Slot {
    ImageBatch::Item item;
    std::vector<uint8_t> pixels;
    bool ready = false;
  };

  void work();
  void fill(Slot& slot, InputPath path);

  static constexpr int64_t large_pixels = 1 << 24;

  const NextPath next_path_;
  const PreprocessConfig preprocess_;
  const int batch_size_;
  std::mutex input_, large_;  // held while a path is asked for; while a large image is decoded
  std::mutex mutex_;          // guards what follows
  std::condition_variable space_, ready_;
  std::vector<Slot> slots_;  // item i is in slot i mod the number of slots
  size_t given_ = 0, taken_ = 0;
  bool exhausted_ = false;
  std::exception_ptr failure_;
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;  // last: they use all of the above
};

}  // namespace vmamba
