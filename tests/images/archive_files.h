// Archives for tests, made by libarchive as asked, however hostile.
#pragma once
#include <archive.h>
#include <archive_entry.h>
#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace vmamba::testing {

struct ArchivedFile {
  std::string name, bytes;
  std::string link;  // not empty: a symbolic link to this instead
};

inline void write_archive(const std::string& path, const std::vector<ArchivedFile>& files) {
  archive* handle = archive_write_new();
  if (path.ends_with(".zip")) {
    archive_write_set_format_zip(handle);
  } else {
    archive_write_set_format_pax_restricted(handle);
    if (path.ends_with("gz")) archive_write_add_filter_gzip(handle);
    if (path.ends_with(".zst")) archive_write_add_filter_zstd(handle);
  }
  REQUIRE(archive_write_open_filename(handle, path.c_str()) == ARCHIVE_OK);
  for (const ArchivedFile& file : files) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, file.name.c_str());
    archive_entry_set_filetype(entry, file.link.empty() ? AE_IFREG : AE_IFLNK);
    archive_entry_set_perm(entry, 0644);
    if (!file.link.empty()) archive_entry_set_symlink(entry, file.link.c_str());
    archive_entry_set_size(entry, static_cast<la_int64_t>(file.bytes.size()));
    REQUIRE(archive_write_header(handle, entry) >= ARCHIVE_WARN);
    if (file.link.empty())
      REQUIRE(archive_write_data(handle, file.bytes.data(), file.bytes.size()) ==
              static_cast<la_ssize_t>(file.bytes.size()));
    archive_entry_free(entry);
  }
  REQUIRE(archive_write_close(handle) == ARCHIVE_OK);
  archive_write_free(handle);
}

}  // namespace vmamba::testing
