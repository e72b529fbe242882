// Names of the classes, by class number.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace vmamba {

struct Labels {
  std::vector<std::string> names;  // human-readable: "Egyptian cat"
  std::vector<std::string> ids;    // folder names in data sets: "n02124075"; empty if the file has none

  bool empty() const { return names.empty(); }
};

// Reads a text file with one class per line: NAME, or ID<tab>NAME, or a WordNet id and NAME ("n02124075 Egyptian cat");
// or JSON or the equivalent Python literal ({0: 'NAME', …}): ["NAME", …], {"0": "NAME", …}, {"0": ["ID", "NAME"], …},
// {"NAME": 0, …}, or an object with one of these as its id2label. InputError if it does not name num_classes classes; a
// background class before them is dropped.
Labels read_labels(const std::filesystem::path& path, int num_classes);
Labels parse_labels(std::string_view text, const std::string& where, int num_classes);

// Matches `words` against `known`, the names of classes 0, 1, ….
struct ClassesByName {
  static constexpr int none = -1, two = -2;
  std::vector<int> classes;  // of each word; none: it is no name, two: of two classes
  size_t found = 0;
  std::string missing;  // the first unmatched word
  std::string twice;    // a word that is the name of two classes
};
ClassesByName classes_by_name(const std::vector<std::string>& words, const std::vector<std::string>& known);

}  // namespace vmamba
