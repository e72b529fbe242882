// From the paths on a command line to batches of crops: files are decoded, resized and cropped on several threads
// ahead of the model, and returned in input order. Memory is bounded: a ring of batches, and one decoded image per
// thread (one in total above large_pixels).
#pragma once
#include <atomic>
#include <condition_variable>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "lib/config/config.h"
#include "lib/images/jpeg_pack.h"
#include "lib/images/shard.h"
#include "lib/support/sha256.h"
#include "lib/tensors/tensor.h"

namespace vmamba {

// Position of an image: index of its file or archive in the input, and its index in the archive (0 for a file).
struct InputPosition {
  size_t input = 0, member = 0;
  auto operator<=>(const InputPosition&) const = default;
};

// A path to try, or one that is already known not to be an image, with the error. A member of an archive comes with its
// contents, and is named as member_name() does.
struct InputPath {
  std::filesystem::path file;
  std::string error;
  std::optional<std::string> bytes;
  InputPosition position;
};
// Returns the next path, or nullopt after the last. May be called from any thread, but not concurrently; stops waiting
// when `stop` is set.
using NextPath = std::function<std::optional<InputPath>(const std::atomic<bool>& stop)>;

// Something that an earlier run has answered: a file, an image of an archive, or (`is_archive`) all images of one.
struct SkippedInput {
  InputPosition position;
  std::string name;
  bool is_archive = false;
};
// The files and archives so far, of all shards.
struct SeenInputs {
  std::atomic<size_t> count = 0;
  std::optional<Sha256> names;  // of their names, if wanted
};
// The part of an input that is read.
struct InputPart {
  Shard shard;                                            // positions are those in the whole input
  std::optional<InputPosition> after;                     // skip everything up to this position
  std::function<void(const SkippedInput&)> skipped = {};  // called in input order
  std::shared_ptr<SeenInputs> seen = std::make_shared<SeenInputs>();
};
// The image files that the arguments name, in order: a file is itself; a folder is all image files in it and its
// subfolders, sorted by path; "-" is the files and folders listed on standard input, read as they arrive, each
// terminated by `end`; an archive, or a pattern of archives with braces, is the images in it.
NextPath input_paths(std::vector<std::string> arguments, char end = '\n', const InputPart& part = {});

// An image that was listed before: a file, or a member of an archive.
struct ImageRef {
  std::string file;    // or the archive
  std::string member;  // empty: the file itself
  size_t place = 0;    // of the member among the images of its archive
  std::string error;   // known from listing
};
std::string name_of(const ImageRef& image);  // in results and messages
// The images that input_paths() gives, without their contents: those of this shard.
std::vector<ImageRef> list_images(std::vector<std::string> arguments, const Shard& shard = {});
// Archives are read once and in order if the references to each are adjacent and in its order.
NextPath listed_images(std::function<std::optional<ImageRef>()> next_image);
NextPath listed_images(std::vector<ImageRef> images);

// The files in a folder and its subfolders, without hidden ones (names that begin with a dot). Links are followed, but not
// to a folder that they are in.
struct FolderFiles {
  std::vector<std::string> images;            // relative to the folder; detected by extension, sorted by path
  std::map<std::string, std::string> errors;  // of the images that are no regular files (pipes, devices)
  std::string error_of(const std::string& image) const;  // empty: none
  size_t others = 0;
  std::vector<std::string> unread;  // of subfolders that could not be listed: path and reason
};
// `set`: the data set that it is a folder of. InputError if the folder itself cannot be listed.
FolderFiles folder_files(const std::filesystem::path& folder, const std::filesystem::path& set = {});
void log_left_out(const std::string& folder, size_t others);

struct ImageBatch {
  struct Item {
    size_t index = 0;  // position in the input
    std::filesystem::path file;
    std::string error;  // why decoding failed; empty on success
    InputPosition position;
    std::string sha256;  // of the encoded image, if wanted
    // For decoding on the device: the pixels are then unspecified, and `encoded` is kept in case the device cannot.
    PackedJpeg packed;
    EncodedImage encoded;
  };
  std::vector<Item> items;      // in input order
  std::vector<uint8_t> pixels;  // of the items without an error, contiguous: images · crop · crop · 3
  int images = 0;
};

// Decodes the packed images of a batch in these places (of the images without an error; ascending). An image that
// cannot be decoded becomes an item with an error.
void decode_packed(ImageBatch& batch, const std::vector<int64_t>& places, const PreprocessConfig& preprocess);

// The normalised images, (B, 3, crop, crop). InputError: the first error among them.
HostTensor normalized(const ImageBatch& batch, const PreprocessConfig& preprocess);
// Reads, decodes and preprocesses images.
HostTensor preprocessed(std::vector<ImageRef> images, const PreprocessConfig& preprocess);

enum class JpegDecoding : uint8_t { here, on_device };
enum class ImageSums : uint8_t { none, sha256 };  // of each encoded image

class ImageSource {
 public:
  ImageSource(NextPath next_path, const PreprocessConfig& preprocess, int batch_size, int threads,
              JpegDecoding jpegs = JpegDecoding::here, ImageSums sums = ImageSums::none);
  ~ImageSource();
  ImageSource(const ImageSource&) = delete;
  ImageSource& operator=(const ImageSource&) = delete;

  // Gets the next batch_size inputs; fewer at the end, or if the next path takes long to arrive. Returns false at the
  // end. Reuses the memory of `batch`.
  bool next(ImageBatch& batch);
  // Like next(), but never fewer than batch_size before the end.
  bool next_whole(ImageBatch& batch);
  // Ends decoding, from any thread: a next() that waits for inputs returns.
  void stop();

 private:
  // A batch being filled. Images are decoded directly into their slots; the gaps of failed images are closed
  // afterwards.
  struct Ahead {
    ImageBatch batch;
    size_t given = 0, done = 0;  // number of items
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
  const JpegDecoding jpegs_;
  const ImageSums sums_;
  std::mutex input_, large_;  // held while waiting for a path; held while decoding a large image
  std::mutex mutex_;          // guards the members below
  std::condition_variable space_, ready_;
  std::vector<Ahead> ring_;  // batch i is in slot i mod size
  size_t filling_ = 0, taken_ = 0,
         given_ = 0;  // the batch that gets the next item; batches returned; items assigned
  bool asking_ = false, exhausted_ = false;  // a thread is waiting for a path; there are no more paths
  std::exception_ptr failure_;
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;  // last member, as the threads use all others
};

}  // namespace vmamba
