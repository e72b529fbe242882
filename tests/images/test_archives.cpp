// Archives give what their files give, in order; hostile ones give errors that name the member.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "lib/images/archives.h"
#include "lib/images/image_source.h"
#include "lib/support/files.h"
#include "lib/support/log.h"
#include "tests/images/archive_files.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

const fs::path model = data("models/s1_ln2d");

CliResult run(const std::string& command, const std::vector<std::string>& arguments, const CliRun& how = {}) {
  return run_model(model, command, arguments, how);
}

const std::vector<std::string> names{"rgb.bmp", "420_restart.jpg", "lossy.webp", "palette.gif",
                                     "interlaced.png"};

std::vector<ArchivedFile> images() {
  std::vector<ArchivedFile> files;
  for (const std::string& name : names)
    files.push_back({"some/" + name, read_file(data("images") / name), {}});
  return files;
}

std::vector<InputPath> read_all(NextPath next) {
  std::vector<InputPath> paths;
  const std::atomic<bool> stop = false;
  while (auto path = next(stop)) paths.push_back(std::move(*path));
  return paths;
}

}  // namespace

TEST_CASE("braces name the files of a set") {
  using Names = std::vector<std::string>;
  CHECK(expand_braces("d-{08..11}.tar") == Names{"d-08.tar", "d-09.tar", "d-10.tar", "d-11.tar"});
  CHECK(expand_braces("{0..1}{a,b,}.tar") == Names{"0a.tar", "0b.tar", "0.tar", "1a.tar", "1b.tar", "1.tar"});
  CHECK(expand_braces("{8..10}.zip") == Names{"8.zip", "9.zip", "10.zip"});
  for (const std::string same : {"plain.tar", "{x}.tar", "{a..b}.tar", "open{1..2", "}{.tar", ""})
    CHECK(expand_braces(same) == Names{same});
  CHECK_THROWS_WITH_AS(expand_braces("{2..1}.tar"), doctest::Contains("that ascend"), InputError);
  CHECK_THROWS_AS(expand_braces("{0..99999999999}.tar"), InputError);
  CHECK_THROWS_AS(expand_braces("{0..18446744073709551615}.tar"), InputError);
  CHECK_THROWS_AS(expand_braces("{0..9999}{0..9999}.tar"), InputError);
}

TEST_CASE("an archive gives the bytes of its images, in its order") {
  const TemporaryDirectory folder;
  std::vector<ArchivedFile> files = images();
  files.insert(files.begin() + 1,
               {{"some/notes.txt", "x", {}}, {"some/._rgb.bmp", "x", {}}, {".git/a.png", "x", {}}});
  for (const char* name : {"a.tar", "a.tar.gz", "a.tgz", "a.tar.zst", "a.zip"}) {
    const std::string path = folder / name;
    write_archive(path, files);
    const std::vector<InputPath> read = read_all(input_paths({path}));
    REQUIRE(read.size() == names.size());
    std::vector<ImageRef> every_second;
    for (size_t i = 0; i < names.size(); ++i) {
      CHECK(read[i].file == path + ":some/" + names[i]);
      CHECK(read[i].error == "");
      CHECK(read[i].bytes == read_file(data("images") / names[i]));
      if (i % 2 == 1) every_second.push_back({path, "some/" + names[i], i, {}});
    }
    const std::vector<ListedImage> listed = list_archive(path);
    REQUIRE(listed.size() == names.size());
    CHECK(listed[4].image.name == "some/interlaced.png");
    const std::vector<InputPath> again = read_all(listed_images(every_second));
    REQUIRE(again.size() == 2);
    CHECK(again[1].bytes == read_file(data("images") / names[3]));
    // Backwards, and with a name that is no longer there.
    std::swap(every_second[0], every_second[1]);
    every_second.push_back({path, "some/other.png", 2, {}});
    const std::vector<InputPath> odd = read_all(listed_images(every_second));
    REQUIRE(odd.size() == 3);
    CHECK(odd[1].bytes == read_file(data("images") / names[1]));
    CHECK(odd[2].error.find("has changed since it was listed") != std::string::npos);
  }
}

TEST_CASE("classify reads archives in place, and answers as for the files") {
  const TemporaryDirectory folder;
  fs::create_directory(folder / "files");
  std::vector<std::string> sorted = names;
  std::ranges::sort(sorted);
  std::vector<ArchivedFile> halves[2];
  for (size_t i = 0; i < sorted.size(); ++i) {
    fs::copy_file(data("images") / sorted[i], folder.path() / "files" / sorted[i]);
    halves[i / 3].push_back({sorted[i], read_file(data("images") / sorted[i]), {}});
  }
  write_archive(folder / "d-0.tar", halves[0]);
  write_archive(folder / "d-1.tar", halves[1]);
  const CliResult files = run("classify", {"files", "--format", "jsonl"}, {.directory = folder.path()});
  const CliResult tars = run("classify", {"d-{0..1}.tar", "--format", "jsonl"}, {.directory = folder.path()});
  REQUIRE(files.exit_code == 0);
  CHECK(tars.exit_code == 0);
  std::string expected = files.out;
  for (size_t i = 0; i < sorted.size(); ++i) {
    const size_t at = expected.find("files/" + sorted[i]);
    REQUIRE(at != std::string::npos);
    expected.replace(at, 6, i < 3 ? "d-0.tar:" : "d-1.tar:");
  }
  CHECK(tars.out == expected);
  const CliResult listed = run("classify", {"-", "--format", "jsonl"},
                               {.input = "d-0.tar\nd-1.tar\n", .directory = folder.path()});
  CHECK(listed.out == expected);
  const CliResult missing =
      run("classify", {"d-{0..2}.tar", "--format", "jsonl"}, {.directory = folder.path()});
  CHECK(missing.exit_code == 1);
  CHECK(missing.err.find("d-2.tar: cannot be read: No such file") != std::string::npos);
  CHECK(missing.out.starts_with(expected));
}

TEST_CASE("hostile members are named, and the others read") {
  const TemporaryDirectory folder;
  const std::string good = read_file(data("images/rgb.bmp"));
  const std::string tar = folder / "a.tar";
  write_archive(tar, {{"/etc/absolute.bmp", good, {}},
                      {"../../up.bmp", good, {}},
                      {"link.png", "", "/etc/passwd"},
                      {"twice.bmp", good, {}},
                      {"twice.bmp", good, {}},
                      {"./twice.bmp", good, {}},
                      {"broken.jpg", "no image", {}},
                      {"empty.png", "", {}},
                      {std::string(5000, 'n') + ".bmp", good, {}},
                      {"a\x1b[31m\nb.bmp", good, {}},
                      {"last.bmp", good, {}}});
  const auto read = read_all(input_paths({tar}));
  REQUIRE(read.size() == 11);
  const auto expect = [&](size_t i, const std::string& name, const std::string& error) {
    CHECK(read[i].file == tar + ":" + name);
    if (error.empty()) {
      CHECK(read[i].error == "");
      CHECK(read[i].bytes.has_value());
    } else {
      CHECK(read[i].error == tar + ":" + name + ": " + error);
    }
  };
  expect(0, "/etc/absolute.bmp", "");
  expect(1, "../../up.bmp", "");
  expect(2, "link.png", "is a link or a device, not a file with contents");
  expect(3, "twice.bmp", "");
  expect(4, "twice.bmp", "a member of this name stands before it in the archive");
  expect(5, "twice.bmp", "a member of this name stands before it in the archive");
  expect(10, "last.bmp", "");
  const CliResult result = run("classify", {tar, "--format", "csv"});
  CHECK(result.exit_code == 1);
  CHECK(result.err.find("a.tar:broken.jpg: not an image") != std::string::npos);
  CHECK(result.err.find("a.tar:empty.png: the file is empty") != std::string::npos);
  CHECK(result.err.find("5 of 11 inputs could not be read") != std::string::npos);
  CHECK(result.err.find('\x1b') == std::string::npos);
}

TEST_CASE("sizes in headers are not believed") {
  const TemporaryDirectory folder;
  const std::string good = read_file(data("images/rgb.bmp"));
  const std::string tar = folder / "a.tar";
  write_archive(tar, {{"a.bmp", good, {}}, {"b.bmp", good, {}}});
  const std::string bytes = read_file(tar);
  const auto with_size = [&](const std::string& octal) {  // of b.bmp, with a checksum that fits
    std::string changed = bytes;
    const size_t at = changed.find("b.bmp");
    changed.replace(at + 124, 12, octal + std::string(1, '\0'));
    std::fill_n(changed.begin() + static_cast<ptrdiff_t>(at) + 148, 8, ' ');
    int sum = 0;
    for (size_t i = 0; i < 512; ++i) sum += static_cast<unsigned char>(changed[at + i]);
    changed.replace(at + 148, 8, fmt::format("{:06o}", sum) + std::string("\0 ", 2));
    return changed;
  };
  const auto error_of = [&](const std::string& changed, size_t place) {
    write_file(tar, changed);
    const auto read = read_all(input_paths({tar}));
    REQUIRE(read.size() > place);
    CHECK(read[0].error == "");
    return read[place].error;
  };
  CHECK(error_of(with_size("77777777777"), 1) ==  // 8 GiB
        tar + ":b.bmp: larger than 1073741824 bytes, the most that an image may have");
  CHECK(error_of(with_size("00000777777"), 1).starts_with(tar + ":b.bmp: damaged: "));
  CHECK(error_of(bytes.substr(0, bytes.find("b.bmp") + 600), 1).starts_with(tar + ":b.bmp: damaged: "));
  CHECK(
      error_of(bytes.substr(0, bytes.find("b.bmp") + 100), 1).starts_with(tar + ": damaged after 1 image: "));
  // A damaged header hides its member only.
  write_archive(tar, {{"a.bmp", good, {}}, {"b.bmp", good, {}}, {"c.bmp", good, {}}});
  std::string bad_header = read_file(tar);
  bad_header[bad_header.find("b.bmp")] = 'x';
  write_file(tar, bad_header);
  const auto resumed = read_all(input_paths({tar}));
  REQUIRE(resumed.size() == 3);
  CHECK(resumed[1].error.starts_with(tar + ": damaged after 1 image: "));
  CHECK(resumed[2].file == tar + ":c.bmp");
  CHECK(resumed[2].bytes == good);
  const auto listed = list_archive(tar);
  REQUIRE(listed.size() == 3);
  CHECK(listed[1].image.error == resumed[1].error);
  CHECK(listed[2].image.place == 2);
  write_file(tar, "neither a tar nor a zip" + std::string(2000, 'x'));
  CHECK(read_all(input_paths({tar}))[0].error.starts_with(tar + ": "));
  write_file(tar, "");
  CHECK(read_all(input_paths({tar}))[0].error.starts_with(tar + ": "));
  write_archive(tar, {{"notes.txt", "x", {}}});
  CHECK(read_all(input_paths({tar}))[0].error.starts_with(tar + ": no image files in it"));
  CHECK(read_all(input_paths({folder / "none.tar"}))[0].error ==
        folder / "none.tar: cannot be read: No such file or directory");
  const std::string zip = folder / "a.zip";
  write_archive(zip, {{"a.bmp", good, {}}, {"b.bmp", good, {}}});
  std::string damaged = read_file(zip);
  damaged[damaged.find("b.bmp") + 60] ^= 1;  // in its deflated contents
  write_file(zip, damaged);
  const auto read = read_all(input_paths({zip}));
  REQUIRE(read.size() == 2);
  CHECK(read[0].error == "");
  CHECK(read[1].error.starts_with(zip + ":b.bmp: damaged: "));
}

TEST_CASE("checksums and ends of archives are looked at") {
  const TemporaryDirectory folder;
  const std::string good = read_file(data("images/rgb.bmp"));
  const std::vector<ArchivedFile> files{{"a.bmp", good, {}}, {"b.bmp", good, {}}};
  // The images that are read, and the error that the archive ends with.
  const auto expect = [&](const std::string& name, const std::string& bytes, size_t images,
                          const std::string& error) {
    INFO(name);
    INFO(error);
    const std::string path = folder / name;
    write_file(path, bytes);
    const auto read = read_all(input_paths({path}));
    const auto listed = list_archive(path);
    REQUIRE(read.size() == images + (error.empty() ? 0 : 1));
    REQUIRE(listed.size() == read.size());
    for (size_t i = 0; i < images; ++i) {
      CHECK(read[i].error == "");
      CHECK(read[i].bytes == good);
      CHECK(listed[i].image.error == "");
    }
    if (error.empty()) return;
    CHECK(read.back().error.starts_with(path + ": "));
    CHECK(read.back().error.find(error) != std::string::npos);
    CHECK(listed.back().image.error == read.back().error);
    CHECK(run("classify", {path}).exit_code == (images == 0 ? 2 : 1));
  };
  write_archive(folder / "a.tar.gz", files);
  const std::string gz = read_file(folder / "a.tar.gz");
  expect("a.tar.gz", gz, 2, "");
  for (const size_t from_end : {8, 2}) {  // the CRC, the length
    std::string wrong = gz;
    wrong[wrong.size() - from_end] ^= 1;
    expect("a.tar.gz", wrong, 2, "what was read of the archive may be wrong");
    expect("a.tar.gz", gz.substr(0, gz.size() - from_end), 2, "gzip: cut off");
  }
  expect("a.tar.gz", gz + std::string(600, '\0'), 2, "");
  expect("a.tar.gz", gz + "behind it", 2, "gzip: incorrect header check");
  expect("a.tar.gz", "\x1f\x8b", 0, "gzip: cut off");

  write_archive(folder / "b.tar.gz", {{"c.bmp", good, {}}});
  expect("a.tar.gz", gz + read_file(folder / "b.tar.gz"), 3, "");
  write_archive(folder / "a.tar", files);
  write_archive(folder / "b.tar", {{"c.bmp", good, {}}});
  const std::string tar = read_file(folder / "a.tar");
  expect("a.tar", tar + read_file(folder / "b.tar"), 3, "");
  expect("a.tar", tar.substr(0, tar.find("b.bmp")), 1, "ends after 1 image without the blocks of zeros");
  expect("a.tar", tar.substr(0, tar.find_last_not_of('\0') / 512 * 512 + 512), 2, "cut off?");
  expect("a.tar", tar + std::string(512, 'x'), 2, "damaged after 2 images");

  write_archive(folder / "a.zip", files);
  const std::string zip = read_file(folder / "a.zip");
  expect("a.zip", zip, 2, "");
  expect("a.zip", zip.substr(0, zip.size() - 30), 2,
         "ends after 2 images without the record that ends a zip");
}

TEST_CASE("of a WebDataset's fields only cls and json are labels, and an image is that with a simple one") {
  const TemporaryDirectory folder;
  const std::string good = read_file(data("images/rgb.bmp")), tar = folder / "a.tar";
  const auto listed = [&](const std::vector<ArchivedFile>& files) {
    write_archive(tar, files);
    return list_archive(tar);
  };
  std::string log;
  const LogSink sink = [&](LogLevel, std::string_view text) { log += std::string(text) + "\n"; };
  const LogTo to(sink);
  auto images = listed({{"0.seg.bmp", good, {}},
                        {"0.bmp", good, {}},
                        {"0.coarse.cls", "7", {}},
                        {"0.CLS", "3", {}},
                        {"1.bmp", good, {}},
                        {"1.thumb.jpg", "", "/etc/passwd"},
                        {"1.json", R"({"label": 4})", {}},
                        {"1.meta.json", "no JSON", {}},
                        {"2.left.bmp", good, {}},
                        {"2.cls", "5", {}}});
  REQUIRE(images.size() == 3);
  CHECK(images[0].image.name == "0.bmp");
  CHECK(images[0].image.place == 1);
  CHECK(images[0].label == "3");
  CHECK(images[1].image.name == "1.bmp");
  CHECK(images[1].image.place == 2);
  CHECK(images[1].label == "4");
  CHECK(images[2].image.name == "2.left.bmp");
  CHECK(images[2].label == "5");
  for (const ListedImage& image : images) CHECK(image.image.error == "");
  CHECK(log ==
        tar + ":0.seg.bmp: left out, as the sample has an image with a simpler name; so 1 image more\n");

  images = listed({{"0.bmp", good, {}},
                   {"0.png", good, {}},
                   {"0.cls", "3", {}},
                   {"1.a.bmp", good, {}},
                   {"1.b.bmp", good, {}},
                   {"2.bmp", good, {}},
                   {"2.bmp", good, {}}});
  REQUIRE(images.size() == 6);
  for (size_t i = 0; i < 4; ++i)
    CHECK(images[i].image.error.find("one of 2 images of this sample") != std::string::npos);
  CHECK(images[4].image.error == "");

  log.clear();
  images = listed({{"0.seg.bmp", good, {}}, {"0.bmp", good, {}}, {"0.coarse.cls", "7", {}}});
  CHECK(images.size() == 2);
  CHECK_FALSE(images[0].label);
  CHECK(log == "");
}

TEST_CASE("names in any encoding") {
  const TemporaryDirectory folder;
  const std::string good = read_file(data("images/rgb.bmp"));
  for (const char* archive : {"a.tar", "a.zip"}) {
    write_archive(folder / archive, {{"\xc3\xa4\xe2\x82\xac.bmp", good, {}}, {"latin\xe4.bmp", good, {}}});
    const auto read = read_all(input_paths({folder / archive}));
    REQUIRE(read.size() == 2);
    CHECK(read[0].file == folder / archive + ":\xc3\xa4\xe2\x82\xac.bmp");
    CHECK(read[0].error == "");
    CHECK(read[1].file == folder / archive + ":latin\xe4.bmp");
  }
}

TEST_CASE("eval on archives counts as on folders of classes: by folders, labels or a truth file") {
  const TemporaryDirectory folder;
  std::vector<ArchivedFile> by_folder, by_cls, by_json, flat;
  std::string truth;
  fs::create_directory(folder / "dir");
  int dealt = 0;
  for (const char* name : {"a", "b", "c"})
    for (const std::string& file : names) {
      const int k = dealt++ % 10;
      const std::string bytes = read_file(data("images") / file), flat_name = name + file;
      fs::create_directories(folder.path() / "dir" / fmt::format("k{}", k));
      write_file(folder.path() / "dir" / fmt::format("k{}", k) / flat_name, bytes);
      by_folder.push_back({fmt::format("./val/k{}/{}", k, flat_name), bytes, {}});
      const std::string key = fmt::format("{:04}", dealt), ending = fs::path(file).extension();
      if (dealt % 2 == 0) by_cls.push_back({key + ".cls", fmt::format("{}\n", k), {}});
      by_cls.push_back({key + ending, bytes, {}});
      if (dealt % 2 == 1) by_cls.push_back({key + ".cls", fmt::format("{}", k), {}});
      by_json.push_back({"x/" + key + ".json", fmt::format(R"({{"label": {}, "caption": "cls"}})", k), {}});
      by_json.push_back({"x/" + key + ending, bytes, {}});
      flat.push_back({"./val/" + flat_name, bytes, {}});
      truth += fmt::format("{},{}\n", flat_name, k);
    }
  write_archive(folder / "folders.tar", by_folder);
  write_archive(folder / "cls-0.tar", {by_cls.begin(), by_cls.begin() + 10});
  write_archive(folder / "cls-1.tar", {by_cls.begin() + 10, by_cls.end()});
  write_archive(folder / "json.zip", by_json);
  write_archive(folder / "flat.tar.gz", flat);
  write_file(folder / "truth.csv", truth);
  const auto counts = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--format", "csv"});
    const CliResult result = run("eval", arguments, {.directory = folder.path()});
    INFO(result.err);
    CHECK(result.exit_code == 0);
    std::string numbers;  // without the names of classes, which only folders have
    for (size_t begin = 0; begin < result.out.size();) {
      const size_t end = result.out.find('\n', begin);
      const std::string line = result.out.substr(begin, end - begin);
      numbers += line.substr(0, line.find(',')) + line.substr(line.find(',', line.find(',') + 1)) + "\n";
      begin = end + 1;
    }
    return numbers;
  };
  const std::string expected = counts({"dir"});
  CHECK(counts({"folders.tar"}) == expected);
  CHECK(counts({"cls-{0..1}.tar"}) == expected);
  CHECK(counts({"json.zip"}) == expected);
  CHECK(counts({"flat.tar.gz", "--truth", "truth.csv"}) == expected);

  // A later run goes on from the results, by the members' names.
  const CliResult first =
      run("eval", {"cls-{0..1}.tar", "--results", "r.jsonl"}, {.directory = folder.path()});
  REQUIRE(first.exit_code == 0);
  const std::string all = read_file(folder / "r.jsonl");
  CHECK(all.find(R"({"file":"cls-1.tar:0006)") != std::string::npos);
  write_file(folder / "r.jsonl", all.substr(0, all.find("0009.gif")));
  const CliResult again =
      run("eval", {"cls-{0..1}.tar", "--results", "r.jsonl"}, {.directory = folder.path()});
  CHECK(again.out == first.out);
  CHECK(read_file(folder / "r.jsonl") == all);
  const CliResult few =
      run("eval", {"json.zip", "--limit", "4", "--format", "json"}, {.directory = folder.path()});
  CHECK(nlohmann::json::parse(few.out)["images"] == 4);

  // What is wrong with labels is an error, or skips the image.
  check_error(run("eval", {"flat.tar.gz"}, {.directory = folder.path()}), 2,
              {"flat.tar.gz: 1 folder, but the model has 10 classes"});
  write_archive(folder / "loose.tar", {{"a.bmp", by_json[1].bytes, {}}});
  check_error(run("eval", {"loose.tar"}, {.directory = folder.path()}), 2,
              {"loose.tar:a.bmp", "--truth FILE"});
  by_cls.erase(by_cls.begin() + 1);
  write_archive(folder / "part.tar", by_cls);
  check_error(run("eval", {"part.tar"}, {.directory = folder.path()}), 2, {"has no label"});
  by_json[0].bytes = "[1]";
  by_json[2].bytes = R"({"label": [1]})";
  write_archive(folder / "odd.tar", by_json);
  const CliResult odd = run("eval", {"odd.tar", "--format", "json"}, {.directory = folder.path()});
  CHECK(odd.exit_code == 1);
  CHECK(nlohmann::json::parse(odd.out)["failed"] == 2);
  CHECK(odd.err.find("odd.tar:x/0001.json: not a JSON object") != std::string::npos);
  write_archive(folder / "two.tar", {{"1.cls", "0", {}},
                                     {"1.json", R"({"label": 3})", {}},
                                     {"1.bmp", by_json[1].bytes, {}},
                                     {"2.json", R"({"cls": 1, "label": 2})", {}},
                                     {"2.bmp", by_json[1].bytes, {}},
                                     {"3.cls", "4", {}},
                                     {"3.json", R"({"label": "name"})", {}},
                                     {"3.bmp", by_json[1].bytes, {}},
                                     {"4.cls", "3", {}},
                                     {"4.bmp", by_json[1].bytes, {}},
                                     {"4.cls", "4", {}},
                                     {"5.cls", "3", {}},
                                     {"5.bmp", by_json[1].bytes, {}},
                                     {"5.cls", "3\n", {}}});
  const CliResult two = run("eval", {"two.tar", "--format", "json"}, {.directory = folder.path()});
  CHECK(two.exit_code == 1);
  CHECK(nlohmann::json::parse(two.out)["images"] == 2);
  CHECK(two.err.find("two.tar:4.cls: two labels that differ: \"3\" and \"4\"") != std::string::npos);
  CHECK(two.err.find("two.tar:1.bmp: two labels that differ: \"0\" and \"3\"") != std::string::npos);
  CHECK(two.err.find("two.tar:2.json: two labels that differ: \"1\" and \"2\"") != std::string::npos);
  write_archive(folder / "beyond.tar", {{"0001.cls", "1000", {}}, {"0001.bmp", by_json[1].bytes, {}}});
  check_error(run("eval", {"beyond.tar"}, {.directory = folder.path()}), 2,
              {"beyond.tar:0001.bmp", "class number 1000"});
  check_error(run("eval", {"none-{0..3}.tar"}, {.directory = folder.path()}), 2,
              {"none-0.tar: cannot be read"});
}

TEST_CASE("check-equal on archives compares as on their files, whole archives a shard") {
  const TemporaryDirectory folder;
  std::vector<ArchivedFile> by_folder, by_cls;
  for (int k = 0; k < 10; ++k)
    for (int i = 0; i < 2; ++i) {
      const std::string& file = names[static_cast<size_t>(2 * k + i) % names.size()];
      const std::string bytes = read_file(data("images") / file), name = fmt::format("k{}/{}{}", k, i, file);
      fs::create_directories(folder.path() / "dir" / fmt::format("k{}", k));
      write_file(folder.path() / "dir" / name, bytes);
      by_folder.push_back({name, bytes, {}});
      by_cls.push_back({fmt::format("{}{}{}", k, i, fs::path(file).extension().string()), bytes, {}});
      by_cls.push_back({fmt::format("{}{}.cls", k, i), fmt::format("{}", k), {}});
    }
  write_archive(folder / "folders.zip", by_folder);
  for (size_t i = 0; i < 4; ++i)
    write_archive(folder / fmt::format("cls-{}.tar", i),
                  {by_cls.begin() + static_cast<ptrdiff_t>(10 * i),
                   by_cls.begin() + static_cast<ptrdiff_t>(10 * i + 10)});
  const auto check_equal = [&](std::vector<std::string> arguments) {
    return run("check-equal", arguments, {.directory = folder.path()});
  };
  const auto report = [&](const std::string& images, std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"--images", images, "--a", "dtype=float32", "--b", "dtype=bfloat16",
                               "--batch-size", "3", "--format", "json"});
    const CliResult result = check_equal(more);
    INFO(result.err);
    CHECK(result.exit_code <= 1);
    return nlohmann::json::parse(result.out);
  };
  const auto files = report("dir"), zip = report("folders.zip"), tars = report("cls-{0..3}.tar");
  REQUIRE(files["taps"].size() > 20);
  CHECK(files["data_set"]["images"] == 20);
  for (const auto* archives : {&zip, &tars}) {
    for (const char* part : {"taps", "agreement", "equal"}) CHECK((*archives)[part] == files[part]);
    CHECK((*archives)["provenance"]["input_sha256"] == files["provenance"]["input_sha256"]);
    for (const char* part : {"images", "agreeing", "accuracy"})
      CHECK((*archives)["data_set"][part] == files["data_set"][part]);
  }
  CHECK(files["data_set"]["accuracy"]["images"] == 20);
  const std::string form = "folders in sorted order, as their names are no labels";
  CHECK(files["data_set"]["truth"] == "the folders of dir: " + form);
  CHECK(zip["data_set"]["truth"] == "the folders in folders.zip: " + form);
  CHECK(tars["data_set"]["truth"].get<std::string>().starts_with("labels in the archives"));
  // By the labels: taps of the first batch alone.
  const auto by_labels = report("cls-{0..3}.tar", {"--min-agreement", "0.01"});
  CHECK(by_labels["agreement"]["images"] == 3);
  for (const char* part : {"images", "agreeing", "accuracy", "flips"})
    CHECK(by_labels["data_set"][part] == tars["data_set"][part]);

  // Shards: every third archive of four.
  int images = 0;
  for (const char* shard : {"0/3", "1/3", "2/3"}) {
    const auto part = report("cls-{0..3}.tar", {"--shard", shard});
    images += part["data_set"]["images"].get<int>();
    CHECK(part["data_set"]["accuracy"]["images"] == part["data_set"]["images"]);
    CHECK(part["data_set"]["images"] == (shard[0] == '0' ? 10 : 5));
  }
  CHECK(images == 20);
  check_error(check_equal({"--images", "cls-{0..3}.tar", "--shard", "4/5"}), 2, {"--shard 4/5", "fewer"});
  // Files and archives together, a list, and other modes.
  const CliResult listed = run("check-equal", {"--images", "-", "--dtype", "float32", "--format", "json"},
                               {.input = "cls-0.tar\ndir/k0\n", .directory = folder.path()});
  CHECK(nlohmann::json::parse(listed.out)["data_set"]["images"] == 7);
  CHECK(check_equal({"--images", "cls-0.tar", "dir/k0", "--repeat", "2"}).exit_code == 0);
  check_error(check_equal({"--images", "cls-{0..3}.tar", "dir", "--matrix"}), 2, {"40 images", "at most 32"});
  const CliResult one = check_equal({"--images", "dir/k0", "--find-precision", "--dtype", "bfloat16"});
  CHECK_MESSAGE(one.exit_code <= 1, one.err);

  // A verdict is on all images: what cannot be read is named, at once if its header says so.
  by_folder[12].bytes = "no image";
  write_archive(folder / "broken.tar", by_folder);
  check_error(check_equal({"--images", "broken.tar", "--min-agreement", "0.1", "--dtype", "float32"}), 2,
              {"broken.tar:" + by_folder[12].name});
  by_folder[12].link = "/etc/passwd";
  write_archive(folder / "link.tar", by_folder);
  check_error(check_equal({"--images", "link.tar"}), 2, {"link.tar:" + by_folder[12].name, "is a link"});
  check_error(check_equal({"--images", "cls-{3..4}.tar"}), 2, {"cls-4.tar: cannot be read"});
}
