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

#include "lib/config/config.h"

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
// sorted by path; "-" the files and folders that standard input lists, taken up as they come, each ended by
// `end`.
NextPath input_paths(std::vector<std::string> arguments, char end = '\n');
NextPath file_paths(std::vector<std::filesystem::path> files);

// The files in a folder and below; names that begin with a dot are not looked at.
struct FolderFiles {
  std::vector<std::filesystem::path> images;  // by their endings, sorted by path
  size_t others = 0;
};
FolderFiles folder_files(const std::filesystem::path& folder);  // InputError where it cannot be read
void log_left_out(const std::string& folder, size_t others);

struct ImageBatch {
  struct Item {
    size_t index = 0;  // place in the input
    std::filesystem::path file;
    std::string error;  // why there are no pixels of it; empty: there are
  };
  std::vector<Item> items;      // in input order
  std::vector<uint8_t> pixels;  // first the items without an error: images · crop · crop · 3
  int images = 0;
};

class ImageSource {
 public:
  ImageSource(NextPath next_path, const PreprocessConfig& preprocess, int batch_size, int threads);
  ~ImageSource();
  ImageSource(const ImageSource&) = delete;
  ImageSource& operator=(const ImageSource&) = delete;

  // The next batch_size inputs; fewer at the end, or where the next path lets itself be waited for. False:
  // there is no more. The memory of `batch` is used again.
  bool next(ImageBatch& batch);
  // The same where that batch is complete by now; false: it is not, or there is no more.
  bool next_if_ready(ImageBatch& batch);

 private:
  // A batch being filled. Images are decoded straight into their places; the batch is closed up where one
  // failed.
  struct Ahead {
    ImageBatch batch;
    size_t given = 0, done = 0;  // items
  };

  void work();
  void make_room(Ahead& ahead, std::unique_lock<std::mutex>& lock);
  void fill(ImageBatch::Item& item, InputPath path, uint8_t* pixels);
  bool is_complete(const Ahead& ahead) const;
  bool hand_out(ImageBatch& batch, std::unique_lock<std::mutex>& lock);

  static constexpr int64_t large_pixels = 1 << 24;

  const NextPath next_path_;
  const PreprocessConfig preprocess_;
  const size_t batch_size_, image_bytes_;
  std::mutex input_, large_;  // held while a path is asked for; while a large image is decoded
  std::mutex mutex_;          // guards what follows
  std::condition_variable space_, ready_;
  std::vector<Ahead> ring_;  // batch i is in place i mod its size
  size_t filling_ = 0, taken_ = 0,
         given_ = 0;  // the batch that gets the next item, the batches handed out, the items
  bool asking_ = false, exhausted_ = false;  // a path is being waited for; there are no more
  std::exception_ptr failure_;
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;  // last: they use all of the above
};

}  // namespace vmamba
