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
// Or JSON: ["NAME", …], {"0": "NAME", …}, {"0": ["ID", "NAME"], …} or {"NAME": 0, …}.
// InputError if it does not name num_classes classes.
Labels read_labels(const std::filesystem::path& path, int num_classes);
Labels parse_labels(std::string_view text, const std::string& where, int num_classes);

}  // namespace vmamba
