#include "lib/labels/class_folders.h"

#include <algorithm>
#include <filesystem>

#include "kernels/error.h"
#include "lib/labels/accuracy.h"
#include "lib/support/text.h"

namespace vmamba {
namespace fs = std::filesystem;
namespace {

// Folders of a data set's splits are no classes, unless the labels name them.
void check_splits(const std::string& directory, const std::vector<std::string>& folders,
                  const Labels& labels) {
  const auto is_folder = [&](std::string_view name) {
    return std::ranges::find(folders, name) != folders.end();
  };
  constexpr std::string_view splits[] = {"val", "validation", "valid", "test", "train"};
  const auto split = std::ranges::find_if(splits, is_folder);
  if (split == std::end(splits)) return;
  const bool only_splits = std::ranges::all_of(
      folders, [&](const std::string& name) { return std::ranges::find(splits, name) != std::end(splits); });
  if (!only_splits && !(is_folder("train") && *split != "train")) return;
  for (const auto* known : {&labels.ids, &labels.names})
    if (std::ranges::find(*known, *split) != known->end()) return;
  fail_input("{}: holds the folders {}, which are no classes: eval {}", directory,
             joined({folders.begin(),
                     folders.begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(folders.size(), 5))}),
             shell_quoted((fs::path(directory) / *split).string()));
}

}  // namespace

ClassFolders read_class_folders(const std::string& directory, const Labels& labels, int num_classes) {
  ClassFolders found;
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    if (name.starts_with('.')) continue;
    std::error_code unknown;
    if (entries->is_directory(unknown)) found.folders.push_back(name);
    if (unknown)
      fail_input("{}: cannot be read, so it may be the folder of a class: {}: mend or remove it",
                 entries->path().string(), unknown.message());
  }
  if (error) fail_input("{}: cannot be listed: {}", directory, error.message());
  if (found.folders.empty())
    fail_input("{}: holds no folders; wanted a folder of images for each class, or --truth FILE", directory);
  std::sort(found.folders.begin(), found.folders.end());
  check_splits(directory, found.folders, labels);
  found.classes = classes_of_folders(found.folders, labels, num_classes, directory, found.form);
  return found;
}

}  // namespace vmamba
