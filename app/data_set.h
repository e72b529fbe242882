// The data set of eval and of check-equal over archives: images with their correct classes.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/images/image_source.h"
#include "lib/images/shard.h"
#include "lib/labels/labels.h"

namespace vmamba {

// One of possibly millions; DataSet tells its paths and classes.
struct Picture {
  std::string name;   // relative to the data set's directory, or in its archive; empty: the archive itself
  std::string error;  // known from listing
  uint32_t archive = 0, place = 0;  // the index of its archive; its own among the images in it
  uint32_t first_class = 0, classes = 0;
};

struct DataSet {
  std::string directory;  // of the files; of archives: what their names begin with, which is not shown
  std::vector<std::string> folders;  // class folders, sorted; empty with a ground-truth file
  std::vector<int> classes;          // of each folder
  std::vector<Picture> pictures;  // of folders: by folder, then sorted by name; of archives: in their order
  std::vector<int> picture_classes;  // of all pictures, one after the other
  bool archives = false;
  std::vector<std::string> archive_names;  // all of them, also other shards'
  std::string truth_sum;                   // SHA-256 of the ground-truth file
  std::string truth_form;                  // empty where folders named as labels are the classes
  bool several = false;                    // an image may have several correct classes: only top-1 is defined
  size_t not_counted = 0;                  // images without a correct class
  std::vector<std::string> unread;         // folders that could not be listed

  std::string file_of(const Picture& picture) const;  // its name in results; "ARCHIVE:MEMBER" in an archive
  ImageRef image_of(const Picture& picture) const;
  // All correct classes, usually one; none if the picture has an error.
  std::span<const int> classes_of(const Picture& picture) const {
    return std::span(picture_classes).subspan(picture.first_class, picture.classes);
  }
};

// Reads a folder, or archives (a name, or a pattern with braces). Classes come from the ground-truth file, otherwise from
// folder names or, in archives, from KEY.cls and KEY.json, which alone let a shard list no archives but its own.
DataSet read_data_set(const std::string& directory, const std::string& truth_file, const Shard& shard,
                      const Labels& labels, int num_classes);

}  // namespace vmamba
