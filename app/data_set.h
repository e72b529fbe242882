// The data set of eval: images with their correct classes.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "lib/images/image_source.h"
#include "lib/images/shard.h"
#include "lib/labels/labels.h"

namespace vmamba {

struct Picture {
  std::filesystem::path file;  // relative to the data set's directory; "ARCHIVE:MEMBER" in an archive
  std::vector<int> classes;    // all correct classes, usually one; empty if the image has an error
  ImageRef image;
  size_t position = 0;  // of its archive among the archives
};

struct DataSet {
  std::vector<std::string> folders;  // class folders, sorted; empty with a ground-truth file
  std::vector<int> classes;          // of each folder
  std::vector<Picture> pictures;  // of folders: by folder, then sorted by name; of archives: in their order
  bool archives = false;
  std::vector<std::string> archive_names;  // all of them, also other shards'
  std::string truth_sum;                   // SHA-256 of the ground-truth file
  std::string truth_form;                  // empty where folders are the classes
  bool several = false;                    // an image may have several correct classes: only top-1 is defined
  size_t not_counted = 0;                  // images without a correct class
  std::vector<std::string> unread;         // folders that could not be listed
};

// Reads a folder, or archives (a name, or a pattern with braces). Classes come from the ground-truth file, otherwise from
// folder names or, in archives, from KEY.cls and KEY.json. Without a ground-truth file only the shard's archives are read.
DataSet read_data_set(const std::string& directory, const std::string& truth_file, const Shard& shard,
                      const Labels& labels, int num_classes);

}  // namespace vmamba
