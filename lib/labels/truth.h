// What the images of a folder show, by a file that says so.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "lib/labels/labels.h"

namespace vmamba {

struct Truth {
  std::string form;                       // what the file is, and how its numbers were taken
  bool guessed = false;                   // how: the numbers do not tell
  bool several = false;                   // an image may have several right classes: only top-1 is defined
  std::vector<std::vector<int>> classes;  // of each file; empty: it does not count
};

// `files`: the folder's images, named from it, sorted. Three forms:
// a class number a line, in the files' order; "NAME,CLASS" lines (or "NAME CLASS", as Caffe's val.txt has), where
// CLASS is a label's id, its name, or a number from 0; ReaL's JSON, a list of class numbers for each file.
// InputError where it does not fit the files or the classes.
Truth parse_truth(std::string_view text, const std::string& where, const std::vector<std::string>& files,
                  const Labels& labels, int num_classes);

}  // namespace vmamba
