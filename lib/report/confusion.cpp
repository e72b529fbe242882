#include "lib/report/confusion.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lib/report/canvas.h"

namespace vmamba {
namespace {

constexpr Colour ink{28, 31, 36}, soft{92, 100, 112}, line{217, 221, 227}, paper{255, 255, 255},
    right_answer{8, 69, 148}, wrong_answer{179, 71, 0};
constexpr size_t most_named = 32;
constexpr int margin = 16, cell = 26, longest_name = 170, overview_side = 640, largest_side = 4096;

// The square root makes rare mistakes visible.
Colour colour_of(int64_t count, int64_t images, bool is_right) {
  if (count == 0 || images == 0) return paper;
  const double part = std::sqrt(static_cast<double>(count) / static_cast<double>(images));
  return mixed(paper, is_right ? right_answer : wrong_answer, 0.08 + 0.92 * part);
}

std::vector<int> present_classes(const Accuracy& accuracy) {
  std::vector<bool> present(accuracy.classes().size());
  for (size_t truth = 0; truth < present.size(); ++truth) {
    if (accuracy.classes()[truth].images > 0) present[truth] = true;
    for (const auto& [answer, images] : accuracy.answers(static_cast<int>(truth)))
      present[static_cast<size_t>(answer)] = true;
  }
  std::vector<int> classes;
  for (size_t i = 0; i < present.size(); ++i)
    if (present[i]) classes.push_back(static_cast<int>(i));
  return classes;
}

// A name in the font's characters, otherwise the class number.
std::string drawn_name(const std::vector<std::string>& names, int of) {
  const std::string& name = names[static_cast<size_t>(of)];
  const bool ascii = std::ranges::all_of(name, [](char c) { return c >= 32 && c < 127; });
  return text_within(ascii && !name.empty() ? name : fmt::format("class {}", of), longest_name);
}

// Rows are the classes that have images, columns all.
struct Table {
  const Accuracy& accuracy;
  const std::vector<int>& columns;
  std::vector<int> rows;
  std::vector<std::string> names;  // of the columns
  int left = 0, top = 0;           // of the cells, from the table's corner: the names are there

  Table(const Accuracy& of, const std::vector<int>& shown, const std::vector<std::string>& all_names)
      : accuracy(of), columns(shown) {
    int widest = 0;
    for (const int one : columns) {
      if (accuracy.classes()[static_cast<size_t>(one)].images > 0) rows.push_back(one);
      names.push_back(drawn_name(all_names, one));
      widest = std::max(widest, text_width(names.back()));
    }
    left = top = widest + 24;
  }
  int width() const { return left + static_cast<int>(columns.size()) * cell; }
  int height() const { return top + static_cast<int>(rows.size()) * cell; }

  void draw(Canvas& canvas, int x, int y) const {
    canvas.text(x + left, y, "answer", soft);
    canvas.text_upwards(x, y + (top + height()) / 2 + 30, "true class", soft);
    int down = y + top;
    for (const int truth : rows) {
      const int64_t images = accuracy.classes()[static_cast<size_t>(truth)].images;
      int along = x + left;
      for (size_t column = 0; column < columns.size(); ++column) {
        const int answer = columns[column];
        if (answer == truth)
          canvas.text(x + left - 6 - text_width(names[column]), down + cell / 2 - 4, names[column], ink);
        const auto found = accuracy.answers(truth).find(answer);
        const int64_t count = found == accuracy.answers(truth).end() ? 0 : found->second;
        const Colour colour = colour_of(count, images, answer == truth);
        canvas.rectangle(along, down, cell, cell, colour);
        canvas.frame(along, down, cell + 1, cell + 1, line);
        const std::string text =
            count < 10000 ? std::to_string(count) : fmt::format("{}k", (count + 500) / 1000);
        const bool dark = colour.red * 3 + colour.green * 6 + colour.blue < 1400;
        if (count > 0)
          canvas.text(along + (cell - text_width(text)) / 2 + 1, down + cell / 2 - 4, text,
                      dark ? paper : ink);
        along += cell;
      }
      down += cell;
    }
    for (size_t column = 0; column < columns.size(); ++column)
      canvas.text_upwards(x + left + static_cast<int>(column) * cell + cell / 2 - 4, y + top - 6,
                          names[column], ink);
  }
};

// All classes, several to a pixel if they are many.
struct Overview {
  const Accuracy& accuracy;
  const std::vector<int>& classes;
  int size, pixels, merged, side;  // classes; pixels per class, or classes per pixel; pixels

  Overview(const Accuracy& of, const std::vector<int>& shown)
      : accuracy(of),
        classes(shown),
        size(std::max(1, static_cast<int>(shown.size()))),
        pixels(std::max(1, overview_side / size)),
        merged((size - 1) / largest_side + 1),
        side((size + merged - 1) / merged * pixels) {}

  static constexpr int left = 40, top = 40;
  int width() const { return left + side; }
  int height() const { return top + side; }

  void draw(Canvas& canvas, int x, int y) const {
    canvas.text(x + left, y, "answer (class number)", soft);
    canvas.text_upwards(x, y + top + side / 2 + 50, "true class (class number)", soft);
    int step = 1;  // 1, 2, 5, 10, …
    for (int i = 1; size / step > 10; ++i) step = step * (i % 3 == 2 ? 5 : 4) / 2;
    for (int i = 0; i < size; i += step) {
      const std::string text = std::to_string(classes[static_cast<size_t>(i)]);
      const int at = i / merged * pixels;
      canvas.text(x + left + at, y + top - 16, text, ink);
      canvas.rectangle(x + left + at, y + top - 5, 1, 5, ink);
      canvas.text(x + left - 8 - text_width(text), y + top + at, text, ink);
      canvas.rectangle(x + left - 5, y + top + at, 5, 1, ink);
    }
    canvas.frame(x + left - 1, y + top - 1, side + 2, side + 2, line);
    const auto draw_cell = [&](int row, int column, Colour colour) {
      canvas.rectangle(x + left + column * pixels, y + top + row * pixels, pixels, pixels, colour);
    };
    // Of several classes in one pixel, the last one drawn is seen: wrong answers before right ones.
    for (const bool is_right : {false, true})
      for (int row = 0; row < size; ++row) {
        const int truth = classes[static_cast<size_t>(row)];
        for (const auto& [answer, count] : accuracy.answers(truth))
          if ((answer == truth) == is_right)
            draw_cell(row / merged,
                      static_cast<int>(std::ranges::lower_bound(classes, answer) - classes.begin()) / merged,
                      colour_of(count, accuracy.classes()[static_cast<size_t>(truth)].images, is_right));
      }
  }
};

constexpr int legend_height = 40;
void draw_legend(Canvas& canvas, int x, int y) {
  for (const bool is_right : {true, false}) {
    canvas.text(x, y, is_right ? "right, part of the row" : "wrong, part of the row", soft);
    for (int i = 0; i < 200; ++i)
      canvas.rectangle(x + i, y + 12, 1, 10,
                       colour_of(static_cast<int64_t>((i + 1) * (i + 1)), 200 * 200, is_right));
    for (const int tick : {0, 1, 2, 3, 4}) {
      const std::string text = fmt::format("{:.0f}%", 100 * tick * tick / 16.0);
      canvas.text(x + std::min(tick * 50, 200 - text_width(text)), y + 25, text, ink);
    }
    x += 240;
  }
}

}  // namespace

std::vector<ConfusedPair> confused_pairs(const Accuracy& accuracy) {
  std::vector<ConfusedPair> pairs;
  for (size_t truth = 0; truth < accuracy.classes().size(); ++truth)
    for (const auto& [answer, count] : accuracy.answers(static_cast<int>(truth)))
      if (answer != static_cast<int>(truth))
        pairs.push_back({static_cast<int>(truth), answer, count, accuracy.classes()[truth].images});
  std::ranges::stable_sort(pairs, [](const auto& a, const auto& b) { return a.count > b.count; });
  return pairs;
}

std::vector<int> most_confused(const std::vector<ConfusedPair>& pairs, size_t most) {
  std::vector<int> classes;
  for (const ConfusedPair& pair : pairs) {
    const auto place = [&](int of) { return std::ranges::find(classes, of); };
    const bool has_truth = place(pair.truth) != classes.end(),
               has_answer = place(pair.answer) != classes.end();
    if (has_truth && has_answer) continue;
    if (classes.size() + (has_truth ? 0 : 1) + (has_answer ? 0 : 1) > most) break;
    if (!has_truth) classes.insert(has_answer ? place(pair.answer) : classes.end(), pair.truth);
    if (!has_answer) classes.insert(place(pair.truth) + 1, pair.answer);
  }
  return classes;
}

std::string confusion_picture(const Accuracy& accuracy, const std::vector<std::string>& names) {
  const std::vector<int> present = present_classes(accuracy);
  const bool whole = present.size() <= most_named;
  const std::vector<int> named = whole ? present : most_confused(confused_pairs(accuracy), most_named);
  const Table table(accuracy, named, names);
  const Overview overview(accuracy, present);
  constexpr int title_height = 40;
  const int table_x = whole ? margin : overview.width() + 3 * margin;
  const int width = std::max(table_x + (named.empty() ? 0 : table.width()) + 2 * margin, 520);
  const int height = title_height +
                     std::max(named.empty() ? 0 : table.height(), whole ? 0 : overview.height()) +
                     legend_height + 3 * margin;
  Canvas canvas(width, height);
  const ClassCounts& total = accuracy.total();
  std::string title =
      fmt::format("{} images, top-1 {:.2f} %; {} of {} classes occur", total.images,
                  100 * share(total.top1, total.images), present.size(), accuracy.classes().size());
  canvas.text(margin, margin, text_within(title, width - 2 * margin, 2), ink, 2);
  const int y = title_height + margin;
  if (!whole) {
    overview.draw(canvas, margin, y);
    if (!named.empty())
      canvas.text(table_x, y - 14, fmt::format("the {} classes in the largest confusions", named.size()),
                  soft);
  }
  if (!named.empty()) table.draw(canvas, table_x, y);
  draw_legend(canvas, margin, height - legend_height - margin / 2);
  return canvas.png();
}

}  // namespace vmamba
