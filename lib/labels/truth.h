// Ground-truth files: the classes of the images in a folder.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/labels/labels.h"

namespace vmamba {

struct Truth {
  std::string form;                       // the kind of file, and how its numbers were interpreted
  bool guessed = false;                   // the interpretation is ambiguous
  bool several = false;                   // an image may have several correct classes: only top-1 is defined
  std::vector<std::vector<int>> classes;  // per file; empty: the image is not counted
};

// `files`: the images relative to the folder, sorted. Three forms: one class number per line, in the order of the
// files; "NAME,CLASS" lines (or "NAME CLASS", as in Caffe's val.txt), where CLASS is a label id, a label name, or a
// 0-based number; ReaL's JSON, a list of class numbers per file. InputError if it does not fit the files or the
// classes.
Truth parse_truth(std::string_view text, const std::string& where, const std::vector<std::string_view>& files,
                  const Labels& labels, int num_classes);

// The classes that `words` name: label ids, label names or 0-based numbers, the same kind for all; which is appended to
// `form`. InputError names the place of a word that is none.
std::vector<int> classes_of_words(const std::vector<std::string>& words,
                                  const std::function<std::string(size_t)>& place_of,
                                  const std::string& where, const Labels& labels, int num_classes,
                                  std::string& form);

}  // namespace vmamba
