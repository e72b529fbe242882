// Parsing of ground-truth files.
#include "lib/labels/truth.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <unordered_map>

#include "kernels/error.h"
#include "lib/labels/ilsvrc2012_ids.h"
#include "lib/support/json.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

struct Line {
  int number = 0;  // 1-based line in the file
  std::string_view text;
};

struct Lines {
  std::vector<Line> first;
  size_t count = 0;
};

// The lines that are not empty: the first `kept`, and their number.
Lines lines_of(std::string_view text, size_t kept) {
  Lines lines;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t begin = line.find_first_not_of(" \t\r");
    if (begin == std::string_view::npos) continue;
    if (lines.count++ < kept)
      lines.first.push_back({number, line.substr(begin, line.find_last_not_of(" \t\r") + 1 - begin)});
  }
  return lines;
}

// Natural order of file names: "img9" before "img10".
bool before_by_number(std::string_view a, std::string_view b) {
  const auto digits = [](std::string_view text) {
    return std::min(text.find_first_not_of("0123456789"), text.size());
  };
  while (!a.empty() && !b.empty()) {
    const size_t of_a = digits(a), of_b = digits(b);
    if (of_a > 0 && of_b > 0) {
      std::string_view x = a.substr(0, of_a), y = b.substr(0, of_b);
      x.remove_prefix(std::min(x.find_first_not_of('0'), x.size()));
      y.remove_prefix(std::min(y.find_first_not_of('0'), y.size()));
      if (x != y) return x.size() != y.size() ? x.size() < y.size() : x < y;
      a.remove_prefix(of_a);
      b.remove_prefix(of_b);
    } else {
      if (a[0] != b[0]) return a[0] < b[0];
      a.remove_prefix(1);
      b.remove_prefix(1);
    }
  }
  return a.empty() && !b.empty();
}

// Without names the file depends on the order of the images: refuses it where that is ambiguous.
void check_order(const std::string& where, size_t rows, const std::vector<std::string_view>& files) {
  if (rows != files.size())
    fail_input("{}: says what {} {}, the folder has {}", where, counted(rows, "image"),
               rows == 1 ? "shows" : "show", files.size());
  for (size_t i = 0; i < files.size(); ++i) {
    if (files[i].find('/') != std::string::npos)
      fail_input("{}: goes by the images' order, but {} lies in a folder of its own: give NAME,CLASS lines",
                 where, printable(files[i]));
    if (i > 0 && before_by_number(files[i], files[i - 1]))
      fail_input(
          "{}: goes by the images' order, which is in doubt: by name {} stands before {}, by number behind it: give "
          "NAME,CLASS lines",
          where, printable(files[i - 1]), printable(files[i]));
  }
}

// The classes in the sorted order of their WordNet ids; in their own order if the labels have no ids.
std::vector<int> sorted_by_id(const Labels& labels, size_t count) {
  std::vector<int> classes(count);
  std::iota(classes.begin(), classes.end(), 0);
  if (!labels.ids.empty())
    std::sort(classes.begin(), classes.end(), [&](int a, int b) {
      return labels.ids[static_cast<size_t>(a)] < labels.ids[static_cast<size_t>(b)];
    });
  return classes;
}

Truth parse_numbers(const std::vector<Line>& lines, const std::string& where, const Labels& labels,
                    int num_classes) {
  std::vector<int64_t> numbers;
  for (const Line& line : lines) numbers.push_back(*parse_number<int64_t>(line.text));
  // ILSVRC2012_validation_ground_truth.txt uses the devkit's order of the classes.
  constexpr int64_t devkit_begin[] = {490, 361, 171, 822, 297, 482, 13, 704, 599, 164};
  const bool devkit = num_classes == static_cast<int>(ilsvrc2012_ids.size()) &&
                      numbers.size() >= std::size(devkit_begin) &&
                      std::equal(std::begin(devkit_begin), std::end(devkit_begin), numbers.begin());
  const auto [lowest, highest] = std::minmax_element(numbers.begin(), numbers.end());
  const bool from_0 = *lowest == 0;
  const int64_t first = from_0 && !devkit ? 0 : 1;
  for (size_t i = 0; i < numbers.size(); ++i)
    if (numbers[i] < first || numbers[i] >= num_classes + first)
      fail_input("{}:{}: class number {}, but the model has {} classes and the numbers begin at {}{}", where,
                 lines[i].number, numbers[i], num_classes, first,
                 from_0 ? fmt::format(" (line {} has a 0)",
                                      lines[static_cast<size_t>(lowest - numbers.begin())].number)
                        : "");
  Truth truth;
  if (devkit)
    truth.form = "ILSVRC2012_IDs of the devkit, brought into the sorted order of the WordNet ids";
  else if (from_0)
    truth.form = "class numbers from 0";
  else
    truth.form = "class numbers from 1";
  if (first == 1 && !devkit && *highest != num_classes) {
    truth.guessed = true;
    truth.form += fmt::format(", which is a guess: neither 0 nor {} is among them", num_classes);
  } else if (first == 1 && !devkit && num_classes == static_cast<int>(ilsvrc2012_ids.size())) {
    truth.guessed = true;
    truth.form += ", which is a guess: they may be ILSVRC2012_IDs, whose order is the devkit's own";
  }
  const std::vector<int> classes = sorted_by_id(labels, devkit ? ilsvrc2012_ids.size() : 0);
  for (const int64_t number : numbers) {
    const auto place = static_cast<size_t>(number - first);
    truth.classes.push_back({devkit ? classes[ilsvrc2012_ids[place]] : static_cast<int>(place)});
  }
  return truth;
}

Truth parse_real(std::string_view text, const std::string& where, const std::vector<std::string_view>& files,
                 int num_classes) {
  constexpr size_t classes_an_image = 64;  // on average; more than any data set has
  const JsonDocument json(text, where, {}, classes_an_image * files.size() + 1000);
  const std::vector<int> rows = json.children(0);
  for (const int row : rows)
    if (json[row].type != JsonType::array)
      fail_input("{}: wanted a list of class numbers for each image, as ReaL has", json.place(row));
  check_order(where, rows.size(), files);
  Truth truth;
  truth.form = "ReaL: class numbers from 0, several an image";
  truth.several = true;
  for (const int row : rows) {
    truth.classes.emplace_back();
    for (const int value : json.children(row)) {
      const JsonValue& number = json[value];
      if (number.type != JsonType::integer || number.integer < 0 || number.integer >= num_classes)
        fail_input("{}: wanted a class number from 0 to {}", json.place(value), num_classes - 1);
      truth.classes.back().push_back(static_cast<int>(number.integer));
    }
  }
  return truth;
}

// The fields of a CSV line (RFC 4180, without line breaks in a field).
std::vector<std::string> csv_fields(std::string_view line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (quoted && line[i] == '"' && line.substr(i + 1, 1) == "\"")
      fields.back() += line[i++];
    else if (line[i] == '"')
      quoted = !quoted;
    else if (line[i] == ',' && !quoted)
      fields.emplace_back();
    else
      fields.back() += line[i];
  }
  return fields;
}

Truth parse_table(const std::vector<Line>& lines, const std::string& where,
                  const std::vector<std::string_view>& files, const Labels& labels, int num_classes) {
  std::unordered_map<std::string_view, size_t> places;
  for (size_t i = 0; i < files.size(); ++i) places.emplace(files[i], i);
  const bool commas = lines[0].text.find(',') != std::string_view::npos;
  std::vector<size_t> of_row;
  std::vector<std::string> words;
  std::vector<int> line_numbers, named_in(files.size());
  for (const Line& line : lines) {
    std::vector<std::string> fields;
    if (commas) {
      fields = csv_fields(line.text);
    } else if (const size_t space = line.text.find_last_of(" \t"); space != std::string_view::npos) {
      fields = {std::string(line.text.substr(0, line.text.find_last_not_of(" \t", space) + 1)),
                std::string(line.text.substr(space + 1))};
    }
    if (fields.size() != 2)
      fail_input("{}:{}: wanted NAME,CLASS, or a class number a line, or ReaL's JSON", where, line.number);
    const auto place = places.find(fields[0]);
    if (place == places.end()) {
      if (&line == lines.data() && fields[0].find('.') == std::string::npos) continue;  // header line
      fail_input("{}:{}: {} is no image in the folder", where, line.number, in_quotes(fields[0]));
    }
    if (named_in[place->second] != 0)
      fail_input("{}:{}: {} stands in line {} already", where, line.number, in_quotes(fields[0]),
                 named_in[place->second]);
    named_in[place->second] = line.number;
    of_row.push_back(place->second);
    words.push_back(fields[1].substr(std::min(fields[1].find_first_not_of(" \t"), fields[1].size())));
    line_numbers.push_back(line.number);
  }
  if (const auto unnamed = std::find(named_in.begin(), named_in.end(), 0); unnamed != named_in.end())
    fail_input("{}: names {} of the folder's {} images: {} is missing", where, words.size(), files.size(),
               in_quotes(files[static_cast<size_t>(unnamed - named_in.begin())]));
  Truth truth;
  truth.form = "names and classes";
  truth.classes.resize(files.size());
  const std::vector<int> classes = classes_of_words(
      words, [&](size_t i) { return fmt::format("{}:{}", where, line_numbers[i]); }, where, labels,
      num_classes, truth.form);
  for (size_t i = 0; i < classes.size(); ++i) truth.classes[of_row[i]] = {classes[i]};
  return truth;
}

}  // namespace

std::vector<int> classes_of_words(const std::vector<std::string>& words,
                                  const std::function<std::string(size_t)>& place_of,
                                  const std::string& where, const Labels& labels, int num_classes,
                                  std::string& form) {
  std::vector<int> numbers;
  int64_t outside = -1;
  size_t outside_place = words.size();
  for (size_t i = 0; i < words.size(); ++i) {
    const std::optional<int64_t> number = parse_number<int64_t>(words[i]);
    if (!number) break;
    if ((*number < 0 || *number >= num_classes) && outside_place == words.size()) {
      outside = *number;
      outside_place = i;
    }
    numbers.push_back(static_cast<int>(*number));
  }
  const bool all_numbers = numbers.size() == words.size();
  std::string strange = all_numbers ? "" : words[numbers.size()];
  size_t most = 0;
  for (const auto* known : {&labels.ids, &labels.names}) {
    const ClassesByName by_name = classes_by_name(words, *known);
    if (by_name.found < words.size()) {
      if (by_name.found > most) strange = by_name.missing;
      most = std::max(most, by_name.found);
      continue;
    }
    if (!by_name.twice.empty())
      fail_input("{}: {} is the name of two classes: give their numbers or ids", where,
                 in_quotes(by_name.twice));
    if (all_numbers && by_name.classes != numbers)
      fail_input("{}: its numbers are labels too, of other classes: give ids or names", where);
    form += known == &labels.ids ? ", classes by the labels' ids" : ", classes by the labels' names";
    return by_name.classes;
  }
  if (!all_numbers)
    fail_input("{}: {} is neither a class number nor among the labels' ids or names{}",
               place_of(static_cast<size_t>(std::find(words.begin(), words.end(), strange) - words.begin())),
               in_quotes(strange), labels.empty() ? ": give --labels FILE" : "");
  if (outside_place < words.size())
    fail_input("{}: class number {}, but the model has {} classes, which count from 0",
               place_of(outside_place), outside, num_classes);
  form += ", class numbers from 0";
  return numbers;
}

Truth parse_truth(std::string_view text, const std::string& where, const std::vector<std::string_view>& files,
                  const Labels& labels, int num_classes) {
  check(!files.empty(), "a truth about no files");
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark
  // One more than there are images and a header: a line too many is found, and a long file takes no memory.
  const auto [lines, count] = lines_of(text, files.size() + 2);
  if (lines.empty()) fail_input("{}: empty: wanted a class for each of {} images", where, files.size());
  if (lines[0].text.starts_with('[')) return parse_real(text, where, files, num_classes);
  if (std::all_of(lines.begin(), lines.end(),
                  [](const Line& line) { return parse_number<int64_t>(line.text).has_value(); })) {
    check_order(where, count, files);
    return parse_numbers(lines, where, labels, num_classes);
  }
  return parse_table(lines, where, files, labels, num_classes);
}

}  // namespace vmamba
