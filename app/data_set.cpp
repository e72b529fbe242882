#include "app/data_set.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <numeric>

#include "app/classifier.h"
#include "kernels/error.h"
#include "lib/images/archives.h"
#include "lib/images/image.h"
#include "lib/labels/accuracy.h"
#include "lib/labels/class_folders.h"
#include "lib/labels/truth.h"
#include "lib/support/files.h"
#include "lib/support/sha256.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {
namespace fs = std::filesystem;

// Assigns the classes of a ground-truth file to the pictures at the places `good`, which have these names.
void read_truth(DataSet& data, const std::vector<size_t>& good, const std::vector<std::string>& names,
                const std::string& truth_file, const Labels& labels, int num_classes) {
  constexpr size_t max_truth_bytes = size_t{256} << 20;
  std::vector<size_t> order(names.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](size_t i) -> const std::string& { return names[i]; });
  std::vector<std::string> sorted;
  for (const size_t i : order) sorted.push_back(names[i]);
  const std::string text = read_file(truth_file, max_truth_bytes);
  Truth truth = parse_truth(text, truth_file, sorted, labels, num_classes);
  data.truth_form = truth.form;
  data.truth_sum = sha256(text);
  data.several = truth.several;
  for (size_t i = 0; i < order.size(); ++i)
    data.pictures[good[order[i]]].classes = std::move(truth.classes[i]);
  data.not_counted = std::erase_if(data.pictures, [](const Picture& picture) {
    return picture.classes.empty() && picture.image.error.empty();
  });
  spdlog::log(truth.guessed ? spdlog::level::warn : spdlog::level::info, "{}: {}", truth_file,
              data.truth_form);
  if (data.not_counted > 0)
    spdlog::info("{}: says no class of {} images, which are not counted", truth_file, data.not_counted);
  if (data.pictures.empty()) fail_input("{}: says no class of any image", truth_file);
}

DataSet read_flat_folder(const std::string& directory, const std::string& truth_file, const Labels& labels,
                         int num_classes) {
  const FolderFiles files = folder_files(directory);
  log_left_out(directory, files.others);
  if (!files.unread.empty())
    fail_input("{}", files.unread[0]);  // the truth is told by the order of all images
  if (files.images.empty()) fail_input("{}: no image files ({}) in it", directory, image_endings);
  DataSet data;
  std::vector<std::string> names;
  std::vector<size_t> places;
  for (const fs::path& file : files.images) {
    places.push_back(names.size());
    names.push_back(file.lexically_relative(directory).string());
    data.pictures.push_back({names.back(), {}, {file}, 0});
  }
  read_truth(data, places, names, truth_file, labels, num_classes);
  return data;
}

DataSet read_folders(const std::string& directory, const Labels& labels, int num_classes) {
  DataSet data;
  ClassFolders found = read_class_folders(directory, labels, num_classes);
  data.folders = std::move(found.folders);
  data.classes = std::move(found.classes);
  size_t others = 0;
  for (size_t i = 0; i < data.folders.size(); ++i) {
    FolderFiles files;
    try {
      files = folder_files(fs::path(directory) / data.folders[i]);
    } catch (const InputError& error) {
      files.unread.push_back(error.what());
    }
    others += files.others;
    data.unread.insert(data.unread.end(), files.unread.begin(), files.unread.end());
    if (files.images.empty() && files.unread.empty())
      spdlog::warn("{}: no image files in it", shown((fs::path(directory) / data.folders[i]).string()));
    for (const fs::path& file : files.images)
      data.pictures.push_back({file.lexically_relative(directory), {data.classes[i]}, {file}, 0});
  }
  log_left_out(directory, others);
  if (data.pictures.empty()) fail_input("{}: no image files ({}) in its folders", directory, image_endings);
  return data;
}

// Removes a folder common to all names if at least `parts` path components remain.
void drop_common_folder(std::vector<std::string>& names, ptrdiff_t parts) {
  if (names.empty()) return;
  const std::string root = names[0].substr(0, names[0].find('/') + 1);
  if (root.empty() || !std::ranges::all_of(names, [&](const std::string& name) {
        return name.starts_with(root) && std::ranges::count(name, '/') >= parts;
      }))
    return;
  for (std::string& name : names) name.erase(0, root.size());
}

// Assigns classes from the labels beside the images, otherwise from folder names.
void read_archive_classes(DataSet& data, std::vector<std::string> names,
                          const std::vector<std::optional<std::string>>& words,
                          const std::vector<size_t>& good, const std::string& where, const Labels& labels,
                          int num_classes) {
  const auto place_of = [&](size_t i) { return shown(data.pictures[good[i]].file.string()); };
  if (std::ranges::any_of(words, [](const auto& word) { return word.has_value(); })) {
    std::vector<std::string> all;
    for (size_t i = 0; i < words.size(); ++i) {
      if (!words[i]) fail_input("{}: has no label (.cls or .json), other images have one", place_of(i));
      all.push_back(*words[i]);
    }
    data.truth_form = "labels in the archives";
    const std::vector<int> classes =
        classes_of_words(all, place_of, where, labels, num_classes, data.truth_form);
    for (size_t i = 0; i < good.size(); ++i) data.pictures[good[i]].classes = {classes[i]};
    return;
  }
  drop_common_folder(names, 2);
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i].find('/') == std::string::npos)
      fail_input("{}: has neither a label (.cls, .json) nor a folder that is its class: give --truth FILE",
                 place_of(i));
    names[i].resize(names[i].find('/'));
  }
  data.folders = names;
  std::ranges::sort(data.folders);
  data.folders.erase(std::ranges::unique(data.folders).begin(), data.folders.end());
  data.classes = classes_of_folders(data.folders, labels, num_classes, where);
  for (size_t i = 0; i < good.size(); ++i) {
    const auto folder = std::ranges::lower_bound(data.folders, names[i]) - data.folders.begin();
    data.pictures[good[i]].classes = {data.classes[static_cast<size_t>(folder)]};
  }
}

DataSet read_archives(const std::string& pattern, const std::vector<std::string>& archives,
                      const std::string& truth_file, const Shard& shard, const Labels& labels,
                      int num_classes) {
  DataSet data;
  data.archives = true;
  data.archive_names = archives;
  const size_t folder = pattern.rfind('/', pattern.find('{')) + 1;  // 0: none
  std::vector<std::string> names;                 // in the archives, of the images without an error
  std::vector<std::optional<std::string>> words;  // their labels
  std::vector<size_t> good;                       // their places among the pictures
  for (size_t i = 0; i < archives.size(); ++i) {
    if (truth_file.empty() && !shard.has(i)) continue;
    const std::string shown_as = archives[i].substr(std::min(folder, archives[i].size()));
    std::vector<ListedImage> listed;
    try {
      listed = list_archive(archives[i]);
    } catch (const ReplacesInput&) {
      throw;
    } catch (const InputError& error) {
      listed.push_back({{{}, error.what(), 0}, {}});
    }
    for (ListedImage& entry : listed) {
      ArchiveImage& image = entry.image;
      if (image.error.empty()) {
        good.push_back(data.pictures.size());
        names.push_back(image.name);
        words.push_back(std::move(entry.label));
      }
      data.pictures.push_back({image.name.empty() ? shown_as : member_name(shown_as, image.name),
                               {},
                               {archives[i], image.name, image.place, std::move(image.error)},
                               i});
    }
  }
  if (good.empty() && shard.is_all()) {
    if (!data.pictures.empty()) fail_input("{}", data.pictures[0].image.error);
    fail_input("{}: no archive is named so", pattern);
  }
  if (!truth_file.empty()) {
    drop_common_folder(names, 1);
    read_truth(data, good, names, truth_file, labels, num_classes);
  } else if (!good.empty()) {
    read_archive_classes(data, std::move(names), words, good, pattern, labels, num_classes);
  }
  return data;
}

}  // namespace

DataSet read_data_set(const std::string& directory, const std::string& truth_file, const Shard& shard,
                      const Labels& labels, int num_classes) {
  if (const std::vector<std::string> archives = archives_of(directory); !archives.empty())
    return read_archives(directory, archives, truth_file, shard, labels, num_classes);
  return truth_file.empty() ? read_folders(directory, labels, num_classes)
                            : read_flat_folder(directory, truth_file, labels, num_classes);
}

}  // namespace vmamba
