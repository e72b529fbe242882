// A data set with a folder of images for each class.
#pragma once
#include <string>
#include <vector>

#include "lib/labels/labels.h"

namespace vmamba {

struct ClassFolders {
  std::vector<std::string> folders;  // sorted
  std::vector<int> classes;          // of the folders
  std::string form;                  // what was assumed; empty: their names are labels
};
// InputError where `directory` holds no folders, those of a data set's splits, or such as fit no classes.
ClassFolders read_class_folders(const std::string& directory, const Labels& labels, int num_classes);

}  // namespace vmamba
