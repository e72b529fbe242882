// Label files in the forms that people have, and the order of predictions.
#include <doctest/doctest.h>

#include <cmath>

#include "kernels/error.h"
#include "lib/labels/accuracy.h"
#include "lib/labels/labels.h"
#include "lib/labels/predictions.h"

using namespace vmamba;
using Strings = std::vector<std::string>;

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

TEST_CASE("JSON in four forms") {
  CHECK(parse_labels(R"(["a", "b"])", "it", 2).names == Strings{"a", "b"});
  CHECK(parse_labels(R"({"1": "b", "0": "a"})", "it", 2).names == Strings{"a", "b"});
  CHECK(parse_labels(R"({"b": 1, "a": 0})", "it", 2).names == Strings{"a", "b"});
  const Labels labels = parse_labels(R"({"0": ["n1", "a"], "1": ["n2", "b"]})", "it", 2);
  CHECK(labels.names == Strings{"a", "b"});
  CHECK(labels.ids == Strings{"n1", "n2"});
}

TEST_CASE("labels that do not fit are refused by place") {
  CHECK_THROWS_WITH_AS(parse_labels("a\nb\n", "it", 3), "it: names 2 classes, the model has 3", InputError);
  CHECK_THROWS_WITH_AS(parse_labels("", "it", 1), "it: names 0 classes, the model has 1", InputError);
  CHECK_THROWS_WITH_AS(parse_labels("a\n\nb", "it", 3), doctest::Contains("it:2: an empty line"), InputError);
  CHECK_THROWS_WITH_AS(parse_labels(R"({"0": "a", "2": "b"})", "it", 2), doctest::Contains("class 2 among 2"),
                       InputError);
  CHECK_THROWS_WITH_AS(parse_labels(R"({"0": "a", "00": "b"})", "it", 2), doctest::Contains("second name"),
                       InputError);
  CHECK_THROWS_WITH_AS(parse_labels(R"({"a": -1})", "it", 1), doctest::Contains("class -1"), InputError);
  CHECK_THROWS_WITH_AS(parse_labels(R"([1])", "it", 1), doctest::Contains("/0"), InputError);
  CHECK_THROWS_AS(parse_labels("[\"a\"", "it", 1), InputError);
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
}

TEST_CASE("folders are classes by id, by name, or by order") {
  Labels labels;
  labels.names = {"cat", "dog", "emu"};
  labels.ids = {"n3", "n2", "n1"};
  CHECK(classes_of_folders({"n1", "n3"}, labels, 3, "dir") == std::vector<int>{2, 0});
  CHECK(classes_of_folders({"dog", "emu"}, labels, 3, "dir") == std::vector<int>{1, 2});
  CHECK(classes_of_folders({"x", "y", "z"}, labels, 3, "dir") == std::vector<int>{0, 1, 2});
  CHECK(classes_of_folders({"x", "y"}, {}, 2, "dir") == std::vector<int>{0, 1});
  CHECK_THROWS_WITH_AS(classes_of_folders({"x", "y"}, labels, 3, "dir"),
                       doctest::Contains("dir: 2 folders, but the model has 3 classes"), InputError);
  CHECK_THROWS_WITH_AS(classes_of_folders({"cat", "dig", "emu"}, labels, 3, "dir"),
                       doctest::Contains("folder dig is not among the labels"), InputError);
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
  CHECK(accuracy.confused(0, 1) == 2);
  CHECK(accuracy.confused(6, 1) == 0);
  CHECK(accuracy.usual_mistake(0) == 1);
  CHECK(accuracy.usual_mistake(6) == -1);
}
