// Images inside archives: tar (WebDataset's among them, plain or compressed) and zip. Members are read in archive order with
// large reads. Nothing is unpacked, and a member's name is never used as a path.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

namespace vmamba {

bool has_archive_ending(const std::filesystem::path& path);
inline constexpr std::string_view archive_endings = ".tar .tar.gz .tgz .tar.bz2 .tar.xz .tar.zst .zip";

// "data-{000000..000146}.tar" is 147 names, "{train,val}.tar" two; several braces give all combinations, the last one
// varying fastest. A name without such braces is itself.
std::vector<std::string> expand_braces(const std::string& pattern);
// The archives that an argument names, recognised by extension, existing or not; empty if it names none.
std::vector<std::string> archives_of(const std::string& argument);

// "ARCHIVE:MEMBER", the name of a member in results and messages.
std::string member_name(const std::filesystem::path& archive, const std::string& member);

struct ArchiveImage {
  std::string name;   // in the archive, without a leading "./"; empty: an error of the archive itself
  std::string error;  // why it cannot be read, beginning with member_name(); empty if it can
  size_t place = 0;   // among the images of the archive
};

// Iterates over members with an image extension, except hidden ones. Links, devices, too large members and repeated names
// have an error.
class ArchiveReader {
 public:
  enum class Reads : uint8_t { large, headers };  // headers: small reads, for skipping what is between them

  explicit ArchiveReader(std::filesystem::path path, Reads reads = Reads::large);
  ~ArchiveReader();
  ArchiveReader(const ArchiveReader&) = delete;
  ArchiveReader& operator=(const ArchiveReader&) = delete;

  // An archive that is damaged or cut off ends with an image without a name that has its error.
  std::optional<ArchiveImage> next();
  // The contents of the image that next() returned last, which is without an error. InputError if they are damaged.
  std::string read();

 private:
  friend class ArchiveLister;
  struct File;
  struct Member;
  std::optional<Member> next_member();
  std::string read_data(const std::string& name, size_t most_bytes);
  std::optional<ArchiveImage> image_of(const Member& member);  // nullopt: it is none
  std::string why() const;
  std::string missing_end() const;

  const std::filesystem::path path_;
  std::unique_ptr<File> file_;
  std::unordered_set<std::string> names_;  // of the images so far
  std::string current_;
  size_t images_ = 0;
  bool damaged_ = false, ended_ = false;  // the last header was; no more can be read
};

struct ListedImage {
  ArchiveImage image;
  std::optional<std::string> label;  // KEY.cls, or "cls", "label" or "class" in KEY.json (WebDataset)
};
// All images of an archive. One that is damaged ends with its error; one that cannot be opened is only that.
std::vector<ListedImage> list_archive(const std::filesystem::path& path);

}  // namespace vmamba
