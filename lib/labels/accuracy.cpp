#include "lib/labels/accuracy.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/error.h"
#include "lib/support/files.h"
#include "lib/support/text.h"

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image_write.h>
#pragma GCC diagnostic pop

namespace vmamba {

void Accuracy::add(int truth, const std::vector<int>& top) {
  check(!top.empty(), "an image without an answer");
  ClassCounts& of_class = classes_.at(static_cast<size_t>(truth));
  const auto place = std::find(top.begin(), top.end(), truth) - top.begin();
  for (ClassCounts* counts : {&total_, &of_class}) {
    ++counts->images;
    counts->top1 += place == 0;
    counts->top5 += place < std::min<std::ptrdiff_t>(5, static_cast<std::ptrdiff_t>(top.size()));
  }
  auto& answers = answers_[static_cast<size_t>(truth)];
  const auto entry =
      std::find_if(answers.begin(), answers.end(), [&](const auto& a) { return a.first == top[0]; });
  if (entry == answers.end())
    answers.emplace_back(top[0], 1);
  else
    ++entry->second;
}

double Accuracy::mean_class_top1() const {
  double sum = 0;
  int with_images = 0;
  for (const ClassCounts& counts : classes_) {
    if (counts.images == 0) continue;
    sum += static_cast<double>(counts.top1) / static_cast<double>(counts.images);
    ++with_images;
  }
  return with_images == 0 ? 0 : sum / with_images;
}

int64_t Accuracy::confused(int truth, int answer) const {
  for (const auto& [other, images] : answers_[static_cast<size_t>(truth)])
    if (other == answer) return images;
  return 0;
}

int Accuracy::usual_mistake(int truth) const {
  int mistake = -1;
  int64_t most = 0;
  for (const auto& [answer, images] : answers_[static_cast<size_t>(truth)]) {
    if (answer == truth || images < most || (images == most && answer > mistake)) continue;
    mistake = answer;
    most = images;
  }
  return mistake;
}

void write_confusion_csv(const std::filesystem::path& path, const Accuracy& accuracy,
                         const std::vector<std::string>& names) {
  OutputFile file(path);
  std::ostream& out = file.stream();
  const int classes = static_cast<int>(names.size());
  out << "true class";
  for (const std::string& name : names) out << ',' << csv_field(name);
  out << '\n';
  for (int truth = 0; truth < classes; ++truth) {
    out << csv_field(names[static_cast<size_t>(truth)]);
    for (int answer = 0; answer < classes; ++answer) out << ',' << accuracy.confused(truth, answer);
    out << '\n';
  }
  file.commit();
}

void write_confusion_png(const std::filesystem::path& path, const Accuracy& accuracy) {
  const int classes = static_cast<int>(accuracy.classes().size());
  constexpr int wanted_side = 800, largest_side = 4096;
  const int cell = std::max(1, wanted_side / classes);      // pixels a class, or
  const int merged = (classes - 1) / largest_side + 1;      // classes a pixel
  const int side = (classes + merged - 1) / merged * cell;  // pixels
  std::vector<uint8_t> rgb(static_cast<size_t>(side) * side * 3, 255);
  for (int truth = 0; truth < classes; ++truth) {
    const int64_t images = accuracy.classes()[static_cast<size_t>(truth)].images;
    for (int answer = 0; images > 0 && answer < classes; ++answer) {
      const int64_t count = accuracy.confused(truth, answer);
      if (count == 0) continue;
      // The root lifts rare mistakes out of the white.
      const double share = std::sqrt(static_cast<double>(count) / static_cast<double>(images));
      const auto pale = static_cast<uint8_t>(std::lround(225 * (1 - share)));
      for (int y = truth / merged * cell; y < (truth / merged + 1) * cell; ++y)
        for (int x = answer / merged * cell; x < (answer / merged + 1) * cell; ++x) {
          uint8_t* pixel = &rgb[(static_cast<size_t>(y) * side + x) * 3];
          const bool right = truth / merged == answer / merged;
          pixel[0] = std::min(pixel[0], right ? pale : uint8_t{255});
          pixel[1] = std::min(pixel[1], pale);
          pixel[2] = std::min(pixel[2], right ? static_cast<uint8_t>(128 + pale / 2) : pale);
        }
    }
  }
  std::string png;
  const auto append = [](void* to, void* bytes, int count) {
    static_cast<std::string*>(to)->append(static_cast<const char*>(bytes), static_cast<size_t>(count));
  };
  check(stbi_write_png_to_func(append, &png, side, side, 3, rgb.data(), side * 3) != 0, "no PNG was made");
  write_file(path, png);
}

std::vector<int> classes_of_folders(const std::vector<std::string>& folders, const Labels& labels,
                                    int num_classes, const std::string& where) {
  std::vector<int> classes(folders.size());
  for (const std::vector<std::string>* known : {&labels.ids, &labels.names}) {
    std::map<std::string_view, int> numbers;
    for (size_t i = 0; i < known->size(); ++i) numbers.emplace((*known)[i], static_cast<int>(i));
    size_t found = 0;
    std::string_view missing;
    for (size_t i = 0; i < folders.size(); ++i) {
      const auto number = numbers.find(folders[i]);
      if (number == numbers.end()) {
        missing = folders[i];
        continue;
      }
      classes[i] = number->second;
      ++found;
    }
    if (found == folders.size()) return classes;
    if (found > folders.size() / 2)
      fail_input("{}: folder {} is not among the labels, the others are", where, missing);
  }
  if (folders.size() != static_cast<size_t>(num_classes))
    fail_input(
        "{}: {} folders, but the model has {} classes, and the folders' names are not among its labels: give "
        "--labels FILE with a line FOLDER<tab>NAME for each class",
        where, folders.size(), num_classes);
  for (size_t i = 0; i < classes.size(); ++i) classes[i] = static_cast<int>(i);
  return classes;
}

}  // namespace vmamba
