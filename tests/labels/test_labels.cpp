// Label files in the forms that people have, and the order of predictions.
#include <doctest/doctest.h>

#include <fmt/format.h>

#include <cmath>

#include "kernels/error.h"
#include "lib/labels/accuracy.h"
#include "lib/labels/labels.h"
#include "lib/labels/predictions.h"
#include "lib/labels/truth.h"
#include "lib/report/confusion.h"
#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba;
using Strings = std::vector<std::string>;
using Views = std::vector<std::string_view>;

TEST_CASE("one name a line") {
  const Labels labels = parse_labels(
      "\xef\xbb\xbf"
      "tench, Tinca tinca\r\ncat\n\n",
      "it", 2);
  CHECK(labels.names == Strings{"tench, Tinca tinca", "cat"});
  CHECK(labels.ids.empty());
}

TEST_CASE("ids before the names") {
  for (const char* text :
       {"n01440764\ttench\nn02124075\tEgyptian cat\n", "n01440764 tench\nn02124075 Egyptian cat"}) {
    const Labels labels = parse_labels(text, "it", 2);
    CHECK(labels.names == Strings{"tench", "Egyptian cat"});
    CHECK(labels.ids == Strings{"n01440764", "n02124075"});
  }
  CHECK(parse_labels("n01440764 tench\nEgyptian cat", "it", 2).ids.empty());
}

TEST_CASE("lines that are numbered in another order than theirs are refused") {
  const auto refused = [](const std::string& text, int classes, const char* words) {
    INFO(text);
    CHECK_THROWS_WITH_AS(parse_labels(text, "it", classes), doctest::Contains(words), InputError);
  };
  for (const char* text :
       {"0\ta\n2\tb\n1\tc\n", "0 a\n2 b\n1 c\n", "a 0\nb 2\nc 1\n", " 0: 'a',\n 2: 'b',\n 1: 'c',\n",
        "1,a\n3,b\n2,c\n", "a\t1\nb\t3\nc\t2\n", "'a': 0,\n'b': 2,\n'c': 1,\n"})
    refused(text, 3, "it:2: has the number ");
  refused("0 crane\n2 crane\n1 emu\n", 3, "it:2: has the number 2");
  refused("2\ta\n1\tb\n", 2, "it:1: has the number 2");
  // In their order the lines are names as they stand.
  CHECK(parse_labels("001.Albatross\n002.Auklet\n", "it", 2).names == Strings{"001.Albatross", "002.Auklet"});
  CHECK(parse_labels("1 euro\n2 euros\n", "it", 2).names == Strings{"1 euro", "2 euros"});
  CHECK(parse_labels("/a/airfield 0\n/b/bar 1\n", "it", 2).names == Strings{"/a/airfield 0", "/b/bar 1"});
  CHECK(parse_labels("0\ta\n1\tb\n", "it", 2).ids == Strings{"0", "1"});
  CHECK(parse_labels("1\ta\n2\tb\n", "it", 2).ids == Strings{"1", "2"});
  // Names with numbers that are no order of the classes.
  for (const char* text : {"0\n10\n1\n", "grade 1\ngrade 3\ngrade 2\n", "1 star\n2 star\n3 star\n",
                           "x\tkind 0\ny\tkind 1\nz\tkind 2\n", "1 a\n2 b\n4 c\n", "2 a\n1 b\nc\n",
                           "10\ta\n20\tb\n5\tc\n", "0 a\n0 b\n1 c\n", "0 a\n3 b\n1 c\n"})
    CHECK(parse_labels(text, "it", 3).names.size() == 3);
}

TEST_CASE("JSON in four forms") {
  CHECK(parse_labels(R"(["a", "b"])", "it", 2).names == Strings{"a", "b"});
  CHECK(parse_labels(R"({"1": "b", "0": "a"})", "it", 2).names == Strings{"a", "b"});
  CHECK(parse_labels(R"({"b": 1, "a": 0})", "it", 2).names == Strings{"a", "b"});
  const Labels labels = parse_labels(R"({"0": ["n1", "a"], "1": ["n2", "b"]})", "it", 2);
  CHECK(labels.names == Strings{"a", "b"});
  CHECK(labels.ids == Strings{"n1", "n2"});
}

TEST_CASE("a Python dict, a list with comments, a model's config") {
  const Strings two{"tench, Tinca tinca", "it's \"é\""};
  CHECK(parse_labels("{0: 'tench, Tinca tinca',\n 1: 'it\\'s \"\\u00e9\"'}\n", "it", 2).names == two);
  CHECK(
      parse_labels("{1: \"it's \\\"\\xe9\\\"\",  # 1\n 0: 'tench, '\n    'Tinca tinca',\n}", "it", 2).names ==
      two);
  CHECK(parse_labels("['tench, Tinca tinca', 'it\\'s \"\\U000000e9\"']", "it", 2).names == two);
  CHECK(parse_labels(R"(["\ud83d\ude00"])", "it", 1).names == Strings{"😀"});
  const Labels pairs = parse_labels("{0: ('n1', 'a'), 1: ('n2', 'b')}", "it", 2);
  CHECK(pairs.ids == Strings{"n1", "n2"});
  const char* config = R"({"architectures": ["X"], "eps": 1e-5, "on": true, "depths": [1, [2]],
    "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}})";
  CHECK(parse_labels(config, "it", 2).names == Strings{"a", "b"});
}

TEST_CASE(
    "a background before the classes is left out, other counts are refused with what they are known for") {
  CHECK(parse_labels("background\na\nb\n", "it", 2).names == Strings{"a", "b"});
  const Labels labels = parse_labels(R"([["n0", "__background__"], ["n1", "a"]])", "it", 1);
  CHECK(labels.names == Strings{"a"});
  CHECK(labels.ids == Strings{"n1"});
  CHECK(parse_labels("background\na\n", "it", 2).names == Strings{"background", "a"});
  CHECK_THROWS_WITH_AS(parse_labels("x\na\nb\n", "it", 2),
                       doctest::Contains("it: names 3 classes, the model has 2 (a list with the background"),
                       InputError);
  std::string many;
  for (int i = 0; i < 21843; ++i) many += "x\n";
  CHECK_THROWS_WITH_AS(parse_labels(many, "it", 21841), doctest::Contains("ImageNet-21K"), InputError);
}

TEST_CASE("a million classes as JSON") {
  std::string text = "{";
  for (int i = 0; i < 1'000'000; ++i)
    text += fmt::format("{}\"{}\": [\"n{}\", \"c{}\"]", i ? "," : "", i, i, i);
  const Labels labels = parse_labels(text + "}", "it", 1'000'000);
  CHECK(labels.names[999'999] == "c999999");
  CHECK(labels.ids[17] == "n17");
}

TEST_CASE("labels that do not fit are refused by place") {
  CHECK_THROWS_WITH_AS(parse_labels("a\nb\n", "it", 3), "it: names 2 classes, the model has 3", InputError);
  CHECK_THROWS_WITH_AS(parse_labels("", "it", 1), "it: names 0 classes, the model has 1", InputError);
  CHECK_THROWS_WITH_AS(parse_labels("a\n\nb", "it", 3), doctest::Contains("it:2: an empty line"), InputError);
  CHECK(parse_labels("a\nb\n\n \n", "it", 2).names.size() == 2);
  CHECK_THROWS_WITH_AS(parse_labels(R"({"0": "a", "2": "b"})", "it", 2), doctest::Contains("class 2 among 2"),
                       InputError);
  CHECK_THROWS_WITH_AS(parse_labels(R"({"0": "a", "00": "b"})", "it", 2), doctest::Contains("second name"),
                       InputError);
  CHECK_THROWS_WITH_AS(parse_labels(R"({"a": -1})", "it", 1), doctest::Contains("class -1"), InputError);
  CHECK_THROWS_WITH_AS(parse_labels("[\n1]", "it", 1), "it:2: wanted a class's name, or [id, name]",
                       InputError);
  CHECK_THROWS_WITH_AS(parse_labels(R"({"0": ["n1", "a"], "1": "b"})", "it", 2),
                       doctest::Contains("have an id"), InputError);
  for (const char* broken : {"[\"a\"",
                             "{0: 'a'",
                             "{0: 'a}",
                             "{0 'a'}",
                             "{0: }",
                             "{0: 'a'} x",
                             "{: 'a'}",
                             "[",
                             "{",
                             "{0: 'a\\",
                             "{0: '\\u12'}",
                             "{0: '\\q'}",
                             "{'id2label': {0: 'a'}, ",
                             "['\\ud800']",
                             "{0: ['n1', 'a', 'b']}",
                             "{0: [[[]]]}",
                             "{0: 1}",
                             "{'a': 1e0}",
                             "{0: {}}",
                             "['a'}"})
    CHECK_THROWS_AS_MESSAGE(parse_labels(broken, "it", 1), InputError, broken);
  CHECK_THROWS_AS(parse_labels(std::string(100000, '['), "it", 1), InputError);
}

TEST_CASE("rows that nothing needs take no memory") {
  std::string lines, list = "['a'";
  for (int i = 0; i < 1'000'002; ++i) lines += "a\n", list += ",''";
  for (const std::string& text : {lines, list + "]"})
    CHECK_THROWS_WITH_AS(parse_labels(text, "it", 3), "it: names more classes than any model has (1000000)",
                         InputError);
  std::string real = "[[0";
  for (int i = 0; i < 2000; ++i) real += ",0";
  CHECK_THROWS_WITH_AS(parse_truth(real + "]]", "it", {"a"}, {}, 3), "it: more than 1064 values", InputError);
  CHECK_THROWS_WITH_AS(parse_truth("0\n0\n0\n0\n0\n0\n", "it", {"a"}, {}, 3),
                       "it: says what 6 images show, the folder has 1", InputError);
  CHECK_THROWS_WITH_AS(parse_truth("NAME,CLASS\na,0\na,0\na,0\n", "it", {"a"}, {}, 3),
                       "it:3: \"a\" stands in line 2 already", InputError);
}

TEST_CASE("the largest logits first, equal ones by class") {
  const std::vector<float> logits{1, 3, 2, 3, -1};
  const auto top = top_k(logits, 3);
  REQUIRE(top.size() == 3);
  CHECK(top[0].index == 1);
  CHECK(top[1].index == 3);
  CHECK(top[2].index == 2);
  const double sum = std::exp(-2.0) + 1 + std::exp(-1.0) + 1 + std::exp(-4.0);
  CHECK(top[0].probability == doctest::Approx(1 / sum).epsilon(1e-14));
  CHECK(top[2].logit == 2);
  CHECK(top_k(logits, 9).size() == 5);
  CHECK(top_k(std::vector<float>{1e4f, -1e4f}, 2)[1].probability == 0);
  const auto broken = top_k(std::vector<float>{NAN, 1, NAN, 2}, 4);
  CHECK(broken[0].index == 3);
  CHECK(broken[2].index == 0);
  CHECK(!all_finite(std::vector<float>{1, INFINITY}));
  CHECK(all_finite(logits));
  CHECK(have_answer(logits));
  CHECK(have_answer(std::vector<float>{1, -INFINITY}));
  for (const std::vector<float>& none :
       {std::vector<float>{1, NAN}, {INFINITY, 1}, {-INFINITY, -INFINITY}, {}})
    CHECK_FALSE(have_answer(none));
}

namespace {

std::string assumed;  // by the last call

std::vector<int> classes_in(const std::vector<std::string>& folders, const Labels& labels, int num_classes) {
  assumed.clear();
  return classes_of_folders(folders, labels, num_classes, "dir", assumed);
}

}  // namespace

TEST_CASE("folders are classes by id, by name, or by order") {
  Labels labels;
  labels.names = {"cat", "dog", "emu"};
  labels.ids = {"n3", "n2", "n1"};
  CHECK(classes_in({"n1", "n3"}, labels, 3) == std::vector<int>{2, 0});
  CHECK(classes_in({"dog", "emu"}, labels, 3) == std::vector<int>{1, 2});
  CHECK(assumed.empty());
  CHECK(classes_in({"x", "y", "z"}, labels, 3) == std::vector<int>{0, 1, 2});
  CHECK(assumed == "folders in sorted order, as their names are no labels");
  CHECK(classes_in({"x", "y"}, {}, 2) == std::vector<int>{0, 1});
  CHECK(assumed == "folders in sorted order, as their names are no labels");
  CHECK_THROWS_WITH_AS(classes_in({"x", "y"}, labels, 3),
                       doctest::Contains("dir: 2 folders, but the model has 3 classes"), InputError);
  CHECK_THROWS_WITH_AS(classes_in({"cat", "dig", "emu"}, labels, 3),
                       doctest::Contains("folder dig is not among the labels"), InputError);
}

TEST_CASE("folders are classes by names that differ in case, spaces, '_' and '-'") {
  Labels labels;
  labels.names = {"night snake", "Arabian camel", "sea snake", "red-backed sandpiper"};
  CHECK(classes_in({"Night_Snake", "Sea-snake", "arabian_camel", "red backed_sandpiper"}, labels, 4) ==
        std::vector<int>{0, 2, 1, 3});
  CHECK(assumed == "folders, which are labels but for case, spaces, '_' and '-'");
  CHECK(classes_in({"Sea_snake"}, labels, 4) == std::vector<int>{2});
  CHECK_THROWS_WITH_AS(classes_in({"Night_Snake", "SeaSnake", "arabian_camel"}, labels, 4),
                       doctest::Contains("dir: folder SeaSnake is not among the labels, the others are"),
                       InputError);
  labels.names = {"Crane", "crane", "emu"};
  CHECK(classes_in({"Crane", "crane"}, labels, 3) == std::vector<int>{0, 1});
  CHECK_THROWS_WITH_AS(classes_in({"CRANE", "emu"}, labels, 3),
                       doctest::Contains("crane is the label of two classes"), InputError);
}

TEST_CASE("the sorted order may not contradict a folder's name") {
  Labels labels;
  labels.names = {"bird", "ant", "0", "1", "2", "3"};
  CHECK_THROWS_WITH_AS(
      classes_in({"Ant", "bird", "w", "x", "y", "z"}, labels, 6),
      doctest::Contains(
          "dir: folder Ant would be class 0 (\"bird\") by the sorted order, but it is the label of "
          "class 1, and not all folders are labels: rename them, or give --labels FILE"),
      InputError);
  labels.names = {"ant", "bird", "0", "1", "2", "3"};
  CHECK(classes_in({"Ant", "bird", "w", "x", "y", "z"}, labels, 6) == std::vector<int>{0, 1, 2, 3, 4, 5});
  labels.ids = {"n0", "n1", "n2", "n3", "n4", "bird"};
  CHECK_THROWS_WITH_AS(classes_in({"Ant", "bird", "w", "x", "y", "z"}, labels, 6),
                       doctest::Contains("folder bird would be class 1 (\"bird\")"), InputError);
  labels.ids.clear();
  labels.names = {"ant", "0", "1", "2", "ant", "3"};  // a name of two classes, one of which it is
  CHECK(classes_in({"ant", "bird", "w", "x", "y", "z"}, labels, 6) == std::vector<int>{0, 1, 2, 3, 4, 5});
  labels.names = {"0", "ant", "1", "2", "ant", "3"};
  CHECK_THROWS_WITH_AS(classes_in({"ant", "bird", "w", "x", "y", "z"}, labels, 6),
                       doctest::Contains("the label of two other classes"), InputError);
}

TEST_CASE("folders that are numbers may not be sorted in another order") {
  const Labels labels{.names = {"a", "b", "c", "d"}, .ids = {}};
  CHECK(classes_in({"1", "2", "3", "4"}, labels, 4) == std::vector<int>{0, 1, 2, 3});
  CHECK(classes_in({"08", "09", "10", "11"}, labels, 4) == std::vector<int>{0, 1, 2, 3});
  CHECK(classes_in({"10", "2", "x", "y"}, labels, 4) == std::vector<int>{0, 1, 2, 3});  // not all are numbers
  CHECK_THROWS_WITH_AS(
      classes_in({"0", "1", "10", "2"}, labels, 4),
      doctest::Contains("dir: folder 2 would be class 3 by the sorted order, after folder 10: rename them"),
      InputError);
  const Labels given =
      parse_labels(R"({"0": ["0", "a"], "1": ["1", "b"], "2": ["10", "c"], "3": ["2", "d"]})", "it", 4);
  CHECK(classes_in({"0", "1", "10", "2"}, given, 4) == std::vector<int>{0, 1, 2, 3});
}

TEST_CASE("a name of two classes names neither") {
  Labels labels;
  labels.names = {"crane", "crane", "emu"};
  CHECK(classes_in({"emu"}, labels, 3) == std::vector<int>{2});
  CHECK_THROWS_WITH_AS(classes_in({"crane", "emu"}, labels, 3),
                       doctest::Contains("crane is the label of two classes"), InputError);
}

TEST_CASE("what images show, in the order of their names") {
  const Views files{"a.png", "b.png", "c.png"};
  const auto classes = [&](const char* text, int num_classes) {
    std::vector<int> found;
    for (const auto& one : parse_truth(text, "t", files, {}, num_classes).classes) found.push_back(one.at(0));
    return found;
  };
  CHECK(classes("0\n2\n1\n", 3) == std::vector<int>{0, 2, 1});
  CHECK(classes("1\r\n3\r\n2", 3) == std::vector<int>{0, 2, 1});
  CHECK(parse_truth("1\n2\n1\n", "t", files, {}, 3).form.find("guess") != std::string::npos);
  const auto refused = [&](const char* text, const Views& names, const char* words) {
    CHECK_THROWS_WITH_AS(parse_truth(text, "t", names, {}, 3), doctest::Contains(words), InputError);
  };
  refused("0\n1\n3\n", files, "t:3: class number 3, but the model has 3 classes and the numbers begin at 0");
  refused("1\n1\n4\n", files, "t:3: class number 4");
  refused("-1\n1\n2\n", files, "t:1: class number -1");
  refused("1\n3\n", files, "says what 2 images show, the folder has 3");
  refused("", files, "empty");
  refused("0\n1\n2\n", {"1.png", "10.png", "2.png"}, "in doubt");
  refused("0\n1\n2\n", {"1.png", "x/10.png", "y.png"}, "x/10.png lies in a folder");
}

TEST_CASE("the devkit's ILSVRC2012_IDs are brought into the order of models") {
  const char* devkit = "490\n361\n171\n822\n297\n482\n13\n704\n599\n164\n";
  const Views files{"0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "6.png", "7.png", "8.png", "9.png"};
  const std::vector<std::vector<int>> first{{65}, {970}, {230}, {809}, {516},
                                            {57}, {334}, {415}, {674}, {332}};
  CHECK(parse_truth(devkit, "t", files, {}, 1000).classes == first);
  Labels labels;  // in another order
  for (int i = 0; i < 1000; ++i) {
    labels.names.push_back("x");
    labels.ids.push_back(fmt::format("n{:08}", 999 - i));
  }
  CHECK(parse_truth(devkit, "t", files, labels, 1000).classes[0] == std::vector<int>{999 - 65});
}

TEST_CASE("what images show, by their names") {
  const Views files{"a.png", "b, c.png"};
  Labels labels;
  labels.names = {"cat", "dog", "dog"};
  labels.ids = {"n1", "n2", "n3"};
  const auto classes = [&](const char* text) { return parse_truth(text, "t", files, labels, 3).classes; };
  const std::vector<std::vector<int>> right{{2}, {0}};
  CHECK(classes("name,label\n\"b, c.png\",n1\na.png,n3\n") == right);
  CHECK(classes("a.png,2\n\"b, c.png\",0\n") == right);
  const auto refused = [&](const char* text, const char* words) {
    CHECK_THROWS_WITH_AS(classes(text), doctest::Contains(words), InputError);
  };
  refused("a.png,cat\n\"b, c.png\",dog\n", "\"dog\" is the name of two classes");
  refused("a.png,cat\n\"b, c.png\",dig\n", "t:2: \"dig\" is neither a class number nor among the labels");
  refused("a.png,0\n\"b, c.png\",3\n",
          "t:2: class number 3, but the model has 3 classes, which count from 0");
  refused("a.png,0\n", "names 1 of the folder's 2 images: \"b, c.png\" is missing");
  refused("a.png,0\na.png,1\n", "t:2: \"a.png\" stands in line 1 already");
  refused("a.png,0\nd.png,1\n", "t:2: \"d.png\" is no image in the folder");
  refused("a.png,0,1\n", "t:1: wanted NAME,CLASS");
  labels.names = {"1", "2", "0"};
  refused("a.png,1\n\"b, c.png\",0\n", "its numbers are labels too, of other classes");
  CHECK(parse_truth("x y.png 2\nz.png 0\n", "t", {"x y.png", "z.png"}, {}, 3).classes == right);
}

TEST_CASE("ReaL: several classes are right of an image, or none is known") {
  const Views files{"a.png", "b.png"};
  const Truth truth = parse_truth("[[], [2, 0]]", "t", files, {}, 3);
  CHECK(truth.several);
  CHECK(truth.classes == std::vector<std::vector<int>>{{}, {2, 0}});
  CHECK_THROWS_WITH_AS(parse_truth("[[1], [3]]", "t", files, {}, 3), doctest::Contains("from 0 to 2"),
                       InputError);
  CHECK_THROWS_WITH_AS(parse_truth("[[1]]", "t", files, {}, 3), doctest::Contains("1 image shows"),
                       InputError);
  CHECK_THROWS_WITH_AS(parse_truth("[1, 2]", "t", files, {}, 3), doctest::Contains("wanted a list"),
                       InputError);
}

TEST_CASE("accuracy counts by class") {
  Accuracy accuracy(7);
  accuracy.add(0, {0, 1, 2, 3, 4});
  accuracy.add(0, {1, 2, 3, 4, 0});
  accuracy.add(0, {1, 2, 3, 4, 5});
  accuracy.add(6, {6, 0, 1, 2, 3});
  CHECK(accuracy.total().images == 4);
  CHECK(accuracy.total().top1 == 2);
  CHECK(accuracy.total().top5 == 3);
  CHECK(accuracy.mean_class_top1() == doctest::Approx((1.0 / 3 + 1) / 2));
  CHECK(accuracy.answers(0).at(1) == 2);
  CHECK(!accuracy.answers(6).contains(1));
  CHECK(accuracy.usual_mistake(0) == 1);
  CHECK(accuracy.usual_mistake(6) == -1);
  accuracy.add(6, {});
  CHECK(accuracy.total().images == 5);
  CHECK(accuracy.total().top1 == 2);
  CHECK(accuracy.total().no_answer == 1);
  CHECK(accuracy.classes()[6].no_answer == 1);
}

TEST_CASE("the confusion of a million classes is of those that occur") {
  Accuracy accuracy(1'000'000);
  accuracy.add(7, {7});
  accuracy.add(7, {999'999});
  CHECK(accuracy.shown_classes() == std::vector<int>{7, 999'999});
  Strings names(1'000'000, "x");
  names[7] = "seven";
  std::ostringstream table, picture;
  write_confusion_csv(table, accuracy, names);
  CHECK(table.str() == "true class,seven,x\nseven,1,1\nx,0,0\n");
  picture << confusion_picture(accuracy, names);
  CHECK(picture.str().starts_with("\x89PNG"));
  CHECK(Accuracy(4096).shown_classes().size() == 4096);
}

TEST_CASE("Wilson's interval") {
  // R: prop.test(81, 263, correct = FALSE)
  const Interval interval = wilson_interval(81, 263);
  CHECK(interval.low == doctest::Approx(0.2553).epsilon(1e-3));
  CHECK(interval.high == doctest::Approx(0.3662).epsilon(1e-3));
  CHECK(wilson_interval(0, 10).low == 0);
  CHECK(wilson_interval(0, 10).high == doctest::Approx(0.27753).epsilon(1e-4));
  CHECK(wilson_interval(10, 10).low == doctest::Approx(0.72247).epsilon(1e-4));
  CHECK(wilson_interval(10, 10).high == 1);
}
