// Files appear whole or not at all.
#include <doctest/doctest.h>

#include <filesystem>

#include "kernels/error.h"
#include "lib/files.h"
#include "tests/testing.h"

using namespace vmamba;
using vmamba::testing::TemporaryDirectory;
namespace fs = std::filesystem;

namespace {
size_t entries(const fs::path& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}
}  // namespace

TEST_CASE("what was written without commit leaves nothing, and the old file as it was") {
  const TemporaryDirectory folder;
  write_file(folder / "a.txt", "old");
  {
    OutputFile file(folder / "a.txt");
    file.stream() << "new";
    CHECK(read_file(folder / "a.txt") == "old");
  }
  CHECK(read_file(folder / "a.txt") == "old");
  CHECK(entries(folder.path()) == 1);
  write_file(folder / "a.txt", "new");
  CHECK(read_file(folder / "a.txt") == "new");
  CHECK(entries(folder.path()) == 1);
}

TEST_CASE("a link stays a link and its target is replaced") {
  const TemporaryDirectory folder;
  write_file(folder / "target", "old");
  fs::create_symlink("target", folder / "link");
  write_file(folder / "link", "new");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(read_file(folder / "target") == "new");
}

TEST_CASE("errors name the file") {
  const TemporaryDirectory folder;
  CHECK_THROWS_WITH_AS(read_file(folder / "none"), doctest::Contains("none: cannot be read: No such file"),
                       InputError);
  CHECK_THROWS_WITH_AS(read_file(folder.path()), doctest::Contains("is a folder"), InputError);
  CHECK_THROWS_WITH_AS(write_file(folder / "no/such", ""),
                       doctest::Contains("cannot be written: No such file"), InputError);
  CHECK_THROWS_WITH_AS(write_file("/dev/full", "x"), doctest::Contains("No space left"), MachineError);
}
