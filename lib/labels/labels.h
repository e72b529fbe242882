// Names of the classes, by class number.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace vmamba {

struct Labels {
  std::vector<std::string> names;  // readable: "Egyptian cat"
  std::vector<std::string> ids;    // as data sets name folders: "n02124075"; empty where the file has none

  bool empty() const { return names.empty(); }
};

// A text file, one class a line: NAME, or ID<tab>NAME, or a WordNet id and NAME ("n02124075 Egyptian cat").
// Or JSON or the same as Python writes it ({0: 'NAME', …}): ["NAME", …], {"0": "NAME", …},
// {"0": ["ID", "NAME"], …}, {"NAME": 0, …}, or an object with such a one as its id2label.
// InputError if it does not name num_classes classes; a background before them is left out.
Labels read_labels(const std::filesystem::path& path, int num_classes);
Labels parse_labels(std::string_view text, const std::string& where, int num_classes);

// The classes that `words` are the names of, among `known` names of the classes 0, 1, ….
struct ClassesByName {
  std::vector<int> classes;  // of each word that is known
  size_t found = 0;
  std::string missing;  // the first word that is not known
  std::string twice;    // a word that is the name of two classes
};
ClassesByName classes_by_name(const std::vector<std::string>& words, const std::vector<std::string>& known);

}  // namespace vmamba
