// Inputs are listed in order, decoded by any number of threads, and handed out as one thread would.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>

#include "kernels/error.h"
#include "lib/images/image.h"
#include "lib/images/image_source.h"
#include "lib/images/preprocess.h"
#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

PreprocessConfig small() {
  PreprocessConfig preprocess;
  preprocess.resize = 36;
  preprocess.crop = 32;
  return preprocess;
}

std::vector<fs::path> listed(std::vector<std::string> arguments) {
  std::vector<fs::path> files;
  const std::atomic<bool> stop = false;
  const NextPath next = input_paths(std::move(arguments));
  while (const auto path = next(stop))
    files.push_back(path->error.empty() ? path->file : fs::path("error: " + path->error));
  return files;
}

// A folder of 40 small images, every seventh of which is none.
void fill(const TemporaryDirectory& folder) {
  const char* names[] = {"rgb.bmp", "420_restart.jpg", "lossy.webp", "palette.gif", "interlaced.png"};
  for (int i = 0; i < 40; ++i) {
    const fs::path source = data("images") / names[i % 5];
    const std::string target = folder / fmt::format("{:02}{}", i, source.extension().string());
    if (i % 7 == 3)
      write_file(target, "no image");
    else
      fs::copy_file(source, target);
  }
}

}  // namespace

TEST_CASE("folders give their image files, sorted, from all the way down") {
  const TemporaryDirectory folder;
  fs::create_directories(folder / "b/deep");
  for (const char* name : {"c.PNG", "b/deep/x.jpg", "b/a.webp", "a.jpeg", "notes.txt", "b/list.csv"})
    write_file(folder / name, "x");
  fs::create_directory(folder / "folder.png");
  REQUIRE(mkfifo((folder / "pipe.png").c_str(), 0600) == 0);
  CHECK(listed({folder.path().string()}) ==
        std::vector<fs::path>{folder / "a.jpeg", folder / "b/a.webp", folder / "b/deep/x.jpg",
                              folder / "c.PNG",
                              "error: " + (folder / "pipe.png") + ": cannot be read: not a regular file"});
  CHECK(listed({folder / "c.PNG", folder / "b", "none"}) ==
        std::vector<fs::path>{folder / "c.PNG", folder / "b/a.webp", folder / "b/deep/x.jpg", "none"});
  const auto empty = listed({folder / "folder.png"});
  REQUIRE(empty.size() == 1);
  CHECK(empty[0].string().find("no image files in this folder") != std::string::npos);
}

TEST_CASE("names that begin with a dot are not looked at, files with other endings are counted") {
  const TemporaryDirectory folder;
  fs::create_directories(folder / ".ipynb_checkpoints");
  fs::create_directories(folder / "a");
  for (const char* name : {".ipynb_checkpoints/x.png", "._x.png", "a/.b.jpg", ".hidden", "a/b.jpg", "c.txt",
                           "a/d", "e.TIFF", "f.pgm", "g.webp"})
    write_file(folder / name, "x");
  const FolderFiles files = folder_files(folder.path());
  CHECK(files.images == std::vector<std::string>{"a/b.jpg", "e.TIFF", "f.pgm", "g.webp"});
  CHECK(files.others == 2);
}

TEST_CASE("links to files and folders are followed, dangling ones are listed, loops end") {
  const TemporaryDirectory folder, elsewhere;
  fs::create_directories(folder / "a/b");
  fs::create_directories(elsewhere / "deep");
  for (const std::string& name : {folder / "a/b/x.png", elsewhere / "y.png", elsewhere / "deep/z.png"})
    write_file(name, "x");
  fs::create_symlink(elsewhere.path(), folder / "linked");
  fs::create_symlink(folder.path(), elsewhere / "back");
  fs::create_symlink("..", folder / "a/b/up");
  fs::create_symlink("../..", folder / "a/b/top");
  fs::create_symlink(".", folder / "self.png");
  fs::create_symlink("a/b/x.png", folder / "file.png");
  fs::create_symlink("nowhere.png", folder / "gone.png");
  fs::create_symlink("loop.png", folder / "loop.png");
  fs::create_symlink("nowhere", folder / "gone");
  const FolderFiles files = folder_files(folder.path());
  CHECK(files.images == std::vector<std::string>{"a/b/x.png", "file.png", "gone.png", "linked/deep/z.png",
                                                 "linked/y.png", "loop.png"});
  CHECK(files.unread ==
        std::vector<std::string>{(folder / "gone") + ": cannot be listed: No such file or directory"});
  CHECK(files.errors.empty());
  CHECK(folder_files(folder / "linked", folder.path()).images ==
        std::vector<std::string>{"deep/z.png", "y.png"});
  CHECK_THROWS_AS(folder_files(folder / "self.png", folder.path()), InputError);
  // Nor to a folder that the input is in.
  CHECK(folder_files(folder / "a").images == std::vector<std::string>{"b/x.png"});
  CHECK_THROWS_AS(folder_files(folder / "a/b/top", folder / "a"), InputError);
}

TEST_CASE("the images of a folder are in the order of their paths, part by part") {
  const TemporaryDirectory folder;
  std::vector<fs::path> expected;
  for (const char* name : {"a/b.png", "a/b/c.png", "a/b b.png", "a.png", "a-b/c.png", "a!.png", "ab.png",
                           "\xc3\xa4.png", "\x01.png", "a/\xff.png"}) {
    fs::create_directories((folder.path() / name).parent_path());
    write_file(folder / name, "x");
    expected.emplace_back(name);
  }
  std::ranges::sort(expected);
  const std::vector<std::string> images = folder_files(folder.path()).images;
  CHECK(std::vector<fs::path>(images.begin(), images.end()) == expected);
}

TEST_CASE("any number of threads gives what one gives, in input order") {
  const TemporaryDirectory folder;
  fill(folder);
  for (const int threads : {1, 2, 7})
    for (const int batch_size : {1, 4, 100}) {
      INFO(threads, " threads, batches of ", batch_size);
      ImageSource source(input_paths({folder.path().string()}), small(), batch_size, threads);
      ImageBatch batch;
      size_t index = 0;
      while (source.next(batch)) {
        CHECK(batch.images <= batch_size);
        CHECK(batch.pixels.size() >= static_cast<size_t>(batch.images) * 32 * 32 * 3);
        size_t place = 0;
        for (const ImageBatch::Item& item : batch.items) {
          CHECK(item.index == index);
          CHECK(item.file.stem() == fmt::format("{:02}", index));
          CHECK(item.error.empty() == (index % 7 != 3));
          ++index;
          if (!item.error.empty()) {
            CHECK(item.error.find(item.file.string() + ": not an image") == 0);
            continue;
          }
          const Image crop = resize_and_crop(read_image(item.file), small());
          CHECK(std::equal(crop.rgb.begin(), crop.rgb.end(),
                           batch.pixels.begin() + static_cast<ptrdiff_t>(place)));
          place += crop.rgb.size();
        }
      }
      CHECK(index == 40);
    }
}

TEST_CASE("a source that is left early stops, however much is ahead") {
  const TemporaryDirectory folder;
  fill(folder);
  for (int round = 0; round < 20; ++round) {
    ImageSource source(input_paths({folder.path().string()}), small(), 2, 3);
    ImageBatch batch;
    if (round % 2 == 0) CHECK(source.next(batch));
  }
}

TEST_CASE("what fails while listing reaches the caller") {
  int calls = 0;
  const NextPath broken = [&](const std::atomic<bool>&) -> std::optional<InputPath> {
    if (++calls > 3) throw MachineError("the disk is gone");
    return InputPath{data("images/rgb.bmp"), {}};
  };
  ImageSource source(broken, small(), 16, 3);
  ImageBatch batch;
  CHECK_THROWS_WITH_AS(while (source.next(batch)){}, "the disk is gone", MachineError);
}

TEST_CASE("a batch is as large as there are images") {
  std::vector<std::string> files(700, data("images/palette.gif"));
  files[300] = data("images/rgb.bmp");
  ImageBatch one, all;
  ImageSource single(input_paths({files[300]}), small(), 65536, 4);
  REQUIRE(single.next(one));
  const size_t image_bytes = size_t{3} * 32 * 32;
  CHECK(one.pixels.size() <= 256 * image_bytes);
  ImageSource source(input_paths(files), small(), 65536, 4);
  REQUIRE(source.next(all));
  REQUIRE(all.images == 700);
  CHECK(all.pixels.size() <= 2 * 700 * image_bytes);
  const auto image = [&](const ImageBatch& batch, size_t i) {
    const auto begin = batch.pixels.begin() + static_cast<std::ptrdiff_t>(i * image_bytes);
    return std::vector<uint8_t>(begin, begin + static_cast<std::ptrdiff_t>(image_bytes));
  };
  CHECK(image(all, 300) == image(one, 0));
  CHECK(image(all, 0) == image(all, 699));
  CHECK(image(all, 0) == image(all, 256));
  CHECK(image(all, 0) != image(one, 0));
  CHECK(!source.next(all));
}

TEST_CASE("memory ahead is bounded") {
  std::atomic<int> asked = 0;
  const NextPath endless = [&](const std::atomic<bool>&) -> std::optional<InputPath> {
    ++asked;
    return InputPath{data("images/palette.gif"), {}};
  };
  ImageSource source(endless, small(), 4, 2);
  ImageBatch batch;
  REQUIRE(source.next(batch));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  CHECK(asked <= 4 * (1 + 2 + 2 * 2 / 4));
}

TEST_CASE("paths on standard input are taken up as they come, and waiting for them can be given up") {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const int standard_input = dup(0);
  REQUIRE(dup2(ends[0], 0) == 0);
  {
    ImageSource source(input_paths({"-"}), small(), 16, 2);
    const std::string lines = data("images/rgb.bmp").string() + "\r\n\nnone.png\n";
    REQUIRE(write(ends[1], lines.data(), lines.size()) == static_cast<ssize_t>(lines.size()));
    ImageBatch batch;
    REQUIRE(source.next(batch));
    CHECK(batch.images == 1);
    CHECK(batch.items[0].file == data("images/rgb.bmp"));
    CHECK(batch.items.back().file == "none.png");
  }  // while the writer still holds its end
  REQUIRE(dup2(standard_input, 0) == 0);
  for (const int end : {ends[0], ends[1], standard_input}) close(end);
}
