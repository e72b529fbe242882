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

void give_classes(DataSet& data, Picture& picture, std::span<const int> classes) {
  picture.first_class = static_cast<uint32_t>(data.picture_classes.size());
  picture.classes = static_cast<uint32_t>(classes.size());
  data.picture_classes.insert(data.picture_classes.end(), classes.begin(), classes.end());
}

// The names of the pictures without an error; not to be used after `data.pictures` is changed.
std::vector<std::string_view> names_in(const DataSet& data) {
  std::vector<std::string_view> names;
  names.reserve(data.pictures.size());
  for (const Picture& picture : data.pictures)
    if (picture.error.empty()) names.emplace_back(picture.name);
  return names;
}

// Assigns the classes of a ground-truth file to the pictures without an error, which it knows by these names.
void read_truth(DataSet& data, const std::vector<std::string_view>& names, const std::string& truth_file,
                const Labels& labels, int num_classes) {
  constexpr size_t max_truth_bytes = size_t{256} << 20;
  std::vector<size_t> order(names.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](size_t i) { return names[i]; });
  std::vector<std::string_view> sorted;
  for (const size_t i : order) sorted.push_back(names[i]);
  const std::string text = read_file(truth_file, max_truth_bytes);
  const Truth truth = parse_truth(text, truth_file, sorted, labels, num_classes);
  data.truth_form = truth.form;
  data.truth_sum = sha256(text);
  data.several = truth.several;
  std::vector<size_t> place(order.size());  // among the sorted names
  for (size_t i = 0; i < order.size(); ++i) place[order[i]] = i;
  auto next = place.begin();
  for (Picture& picture : data.pictures)
    if (picture.error.empty()) give_classes(data, picture, truth.classes[*next++]);
  data.not_counted = std::erase_if(
      data.pictures, [](const Picture& picture) { return picture.classes == 0 && picture.error.empty(); });
  spdlog::log(truth.guessed ? spdlog::level::warn : spdlog::level::info, "{}: {}", truth_file,
              data.truth_form);
  if (data.not_counted > 0)
    spdlog::info("{}: says no class of {} images, which are not counted", truth_file, data.not_counted);
  if (data.pictures.empty()) fail_input("{}: says no class of any image", truth_file);
}

DataSet read_flat_folder(const std::string& directory, const std::string& truth_file, const Labels& labels,
                         int num_classes) {
  FolderFiles files = folder_files(directory);
  log_left_out(directory, files.others);
  if (!files.unread.empty())
    fail_input("{}", files.unread[0]);  // the truth is told by the order of all images
  if (files.images.empty()) fail_input("{}: no image files ({}) in it", directory, image_endings);
  DataSet data;
  data.directory = directory;
  data.pictures.reserve(files.images.size());
  for (const std::string& name : files.images) data.pictures.push_back({name, files.error_of(name)});
  read_truth(data, names_in(data), truth_file, labels, num_classes);
  return data;
}

// Of classes by folders; nothing if their names are labels.
void say_assumed(DataSet& data, const std::string& where, std::string form) {
  if (!form.empty()) spdlog::info("{}: classes are its {}", where, form);
  data.truth_form = std::move(form);
}

DataSet read_folders(const std::string& directory, const Labels& labels, int num_classes) {
  DataSet data;
  data.directory = directory;
  ClassFolders found = read_class_folders(directory, labels, num_classes);
  data.folders = std::move(found.folders);
  data.classes = std::move(found.classes);
  say_assumed(data, directory, std::move(found.form));
  size_t others = 0;
  for (size_t i = 0; i < data.folders.size(); ++i) {
    FolderFiles files;
    try {
      files = folder_files(fs::path(directory) / data.folders[i], directory);
    } catch (const InputError& error) {
      files.unread.push_back(error.what());
    }
    others += files.others;
    data.unread.insert(data.unread.end(), files.unread.begin(), files.unread.end());
    if (files.images.empty() && files.unread.empty())
      spdlog::warn("{}: no image files in it", shown((fs::path(directory) / data.folders[i]).string()));
    for (const std::string& name : files.images) {
      data.pictures.push_back({data.folders[i] + '/' + name, files.error_of(name)});
      give_classes(data, data.pictures.back(), {&data.classes[i], 1});
    }
  }
  log_left_out(directory, others);
  if (data.pictures.empty()) fail_input("{}: no image files ({}) in its folders", directory, image_endings);
  return data;
}

// Removes a folder common to all names if at least `parts` path components remain.
void drop_common_folder(std::vector<std::string_view>& names, ptrdiff_t parts) {
  if (names.empty()) return;
  const std::string_view root = names[0].substr(0, names[0].find('/') + 1);
  if (root.empty() || !std::ranges::all_of(names, [&](std::string_view name) {
        return name.starts_with(root) && std::ranges::count(name, '/') >= parts;
      }))
    return;
  for (std::string_view& name : names) name.remove_prefix(root.size());
}

// Assigns classes from the labels beside the images, otherwise from folder names.
void read_archive_classes(DataSet& data, const std::vector<std::optional<std::string>>& words,
                          const std::string& where, const Labels& labels, int num_classes) {
  std::vector<Picture*> good;
  for (Picture& picture : data.pictures)
    if (picture.error.empty()) good.push_back(&picture);
  const auto place_of = [&](size_t i) { return shown(data.file_of(*good[i])); };
  if (std::ranges::any_of(words, [](const auto& word) { return word.has_value(); })) {
    std::vector<std::string> all;
    for (size_t i = 0; i < words.size(); ++i) {
      if (!words[i]) fail_input("{}: has no label (.cls or .json), other images have one", place_of(i));
      all.push_back(*words[i]);
    }
    data.truth_form = "labels in the archives";
    const std::vector<int> classes =
        classes_of_words(all, place_of, where, labels, num_classes, data.truth_form);
    for (size_t i = 0; i < good.size(); ++i) give_classes(data, *good[i], {&classes[i], 1});
    return;
  }
  std::vector<std::string_view> names = names_in(data);
  drop_common_folder(names, 2);
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i].find('/') == names[i].npos)
      fail_input(
          "{}: has neither a label (KEY.cls or KEY.json, KEY being its name up to the first dot) nor a folder "
          "that is its class: give --truth FILE",
          place_of(i));
    names[i] = names[i].substr(0, names[i].find('/'));
  }
  data.folders.assign(names.begin(), names.end());
  std::ranges::sort(data.folders);
  data.folders.erase(std::ranges::unique(data.folders).begin(), data.folders.end());
  std::string form;
  data.classes = classes_of_folders(data.folders, labels, num_classes, where, form);
  say_assumed(data, where, std::move(form));
  for (size_t i = 0; i < good.size(); ++i) {
    const auto folder = std::ranges::lower_bound(data.folders, names[i]) - data.folders.begin();
    give_classes(data, *good[i], {&data.classes[static_cast<size_t>(folder)], 1});
  }
}

DataSet read_archives(const std::string& pattern, const std::vector<std::string>& archives,
                      const std::string& truth_file, const Shard& shard, const Labels& labels,
                      int num_classes) {
  DataSet data;
  data.archives = true;
  data.archive_names = archives;
  data.directory = pattern.substr(0, pattern.rfind('/', pattern.find('{')) + 1);  // empty: none
  std::vector<std::vector<ListedImage>> listed(archives.size());
  bool labelled = false, any = false;
  const auto list = [&](bool of_shard) {
    for (size_t i = 0; i < archives.size(); ++i) {
      if (shard.has(i) != of_shard) continue;
      listed[i] = list_archive(archives[i]);
      for (const ListedImage& entry : listed[i]) {
        any = any || entry.image.error.empty();
        labelled = labelled || (entry.image.error.empty() && entry.label);
      }
    }
  };
  list(true);
  // Names in a ground-truth file, and classes by folder, are those of all archives, whatever the shard's have.
  const bool by_folder = truth_file.empty() && any && !labelled;
  if (!truth_file.empty() || by_folder) list(false);
  std::vector<std::optional<std::string>> words;  // labels of the images without an error
  for (size_t i = 0; i < archives.size(); ++i) {
    for (ListedImage& entry : listed[i]) {
      ArchiveImage& image = entry.image;
      if (image.error.empty()) words.push_back(std::move(entry.label));
      data.pictures.push_back({std::move(image.name), std::move(image.error), static_cast<uint32_t>(i),
                               static_cast<uint32_t>(image.place)});
    }
    listed[i] = {};
  }
  if (words.empty() && (shard.is_all() || !truth_file.empty())) {
    if (!data.pictures.empty()) fail_input("{}", data.pictures[0].error);
    fail_input("{}: no archive is named so", pattern);
  }
  if (!truth_file.empty()) {
    std::vector<std::string_view> names = names_in(data);
    drop_common_folder(names, 1);
    read_truth(data, names, truth_file, labels, num_classes);
  } else if (!words.empty()) {
    read_archive_classes(data, words, pattern, labels, num_classes);
  }
  if (by_folder)
    std::erase_if(data.pictures, [&](const Picture& picture) { return !shard.has(picture.archive); });
  return data;
}

}  // namespace

std::string DataSet::file_of(const Picture& picture) const {
  if (!archives) return picture.name;
  const std::string archive = archive_names[picture.archive].substr(directory.size());
  return picture.name.empty() ? archive : member_name(archive, picture.name);
}

ImageRef DataSet::image_of(const Picture& picture) const {
  if (!archives) return {(fs::path(directory) / picture.name).string(), {}, 0, picture.error};
  return {archive_names[picture.archive], picture.name, picture.place, picture.error};
}

DataSet read_data_set(const std::string& directory, const std::string& truth_file, const Shard& shard,
                      const Labels& labels, int num_classes) {
  if (const std::vector<std::string> archives = archives_of(directory); !archives.empty())
    return read_archives(directory, archives, truth_file, shard, labels, num_classes);
  return truth_file.empty() ? read_folders(directory, labels, num_classes)
                            : read_flat_folder(directory, truth_file, labels, num_classes);
}

}  // namespace vmamba
