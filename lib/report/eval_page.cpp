#include "lib/report/eval_page.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "lib/report/confusion.h"
#include "lib/report/page.h"
#include "lib/report/thumbnails.h"

namespace vmamba {
namespace {

using Json = nlohmann::ordered_json;
using Shown = AnswersToShow::Shown;

constexpr size_t most_pairs = 100, most_classes = 40;

// Keeps the first `most` by `before`; of equal ones the earlier.
template <class Before>
void keep(std::vector<Shown>& list, const Shown& shown, const Before& before) {
  if (list.size() == AnswersToShow::most && !before(shown, list.back())) return;
  list.insert(std::upper_bound(list.begin(), list.end(), shown, before), shown);
  if (list.size() > AnswersToShow::most) list.pop_back();
}

bool is_right(const Shown& shown) {
  return std::ranges::find(shown.right, shown.answer) != shown.right.end();
}

std::string percent(double part) {
  return fmt::format("{:.2f} %", 100 * part);
}

Json page_data(const EvalPage& eval) {
  const Accuracy& accuracy = eval.accuracy;
  Json data{{"classes", Json::array()},
            {"pairs", Json::array()},
            {"table", Json::object()},
            {"bins", Json::array()}};
  for (const AnswersToShow::Bin& bin : eval.answers.bins)
    data["bins"].push_back({bin.images, bin.right, bin.probability});
  if (eval.several) return data;
  const auto name = [&](int of) { return eval.names[static_cast<size_t>(of)]; };
  for (size_t i = 0; i < accuracy.classes().size(); ++i) {
    const ClassCounts& counts = accuracy.classes()[i];
    if (counts.images == 0) continue;
    const Interval interval = wilson_interval(counts.top1, counts.images);
    const int mistake = accuracy.usual_mistake(static_cast<int>(i));
    data["classes"].push_back({{"class", i},
                               {"name", eval.names[i]},
                               {"images", counts.images},
                               {"top1", share(counts.top1, counts.images)},
                               {"low", interval.low},
                               {"high", interval.high},
                               {"top5", share(counts.top5, counts.images)},
                               {"mistake", mistake < 0 ? Json("") : Json(name(mistake))}});
  }
  const std::vector<ConfusedPair> pairs = confused_pairs(accuracy);
  for (size_t i = 0; i < std::min(pairs.size(), most_pairs); ++i)
    data["pairs"].push_back({name(pairs[i].truth), name(pairs[i].answer), pairs[i].count, pairs[i].images});
  const std::vector<int> classes = most_confused(pairs, most_classes);
  Json names = Json::array(), counts = Json::array(), images = Json::array();
  for (const int truth : classes) {
    names.push_back(name(truth));
    images.push_back(accuracy.classes()[static_cast<size_t>(truth)].images);
    for (const int answer : classes) {
      const auto found = accuracy.answers(truth).find(answer);
      counts.push_back(found == accuracy.answers(truth).end() ? 0 : found->second);
    }
  }
  data["table"] = {{"names", std::move(names)}, {"counts", std::move(counts)}, {"images", std::move(images)}};
  return data;
}

std::string shown_cards(const EvalPage& eval, const std::vector<Shown>& list) {
  std::vector<ImageRef> images;
  for (const Shown& shown : list) images.push_back(shown.image);
  const std::vector<std::string> jpegs = thumbnails(images, eval.preprocess);
  const auto name = [&](int of) { return eval.names[static_cast<size_t>(of)]; };
  std::vector<Card> all;
  for (size_t i = 0; i < list.size(); ++i) {
    std::vector<std::string> right;
    for (const int of : list[i].right) right.push_back(name(of));
    all.push_back({jpegs[i], fmt::format("{} {:.1f} %", name(list[i].answer), 100 * list[i].probability),
                   fmt::format("{}{} · {}", is_right(list[i]) ? "right: " : "is ", fmt::join(right, " or "),
                               list[i].file)});
  }
  return cards(all);
}

constexpr const char* classes_section = R"html(<h2>Classes</h2>
<p class="note">Bars: top-1 with its 95 % interval. Click a column to sort by it.</p>
<p><label><input type="checkbox" id="all"> all classes</label> <input id="search" type="search" placeholder="name contains" aria-label="name contains"></p>
<div class="wrap"><table><thead><tr id="columns"></tr></thead><tbody id="rows"></tbody></table></div>
<h2>Largest confusions</h2>
<p><label>classes <select id="count"></select></label></p>
<div class="wrap"><div id="confusion"></div></div>
<p class="note">Rows are true classes, columns answers; the number of images. Blue: right. Orange: wrong. Darker for a larger part of the row.</p>
<div class="wrap"><table><thead><tr><th>true class</th><th class="name">taken for</th><th>images</th><th>of</th></tr></thead><tbody id="pairs"></tbody></table></div>
)html";

constexpr const char* calibration_section = R"html(<h2>Calibration</h2>
<div class="legend"><span><i style="background:var(--a)"></i>accuracy of images by the probability of their answer</span><span><i style="background:var(--soft)"></i>a calibrated model</span><span><i style="background:var(--b)"></i>images</span></div>
<div id="calibration" style="max-width:640px"></div>
)html";

constexpr const char* script = R"html(<script>
const percent = x => (100 * x).toFixed(1) + " %";
function calibration() {
  const width = Math.max(280, Math.min(640, $("calibration").clientWidth)), height = 300, left = 46, bottom = 34, top = 10, n = data.bins.length;
  const x = p => left + (width - left - 26) * p, y = p => top + (height - top - bottom) * (1 - p), most = Math.max(...data.bins.map(b => b[0]), 1);
  const chart = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "calibration curve"});
  for (let p = 0; p <= 1.001; p += 0.2) {
    chart.append(svg("line", {x1: left, x2: x(1), y1: y(p), y2: y(p), stroke: "var(--line)"}));
    chart.append(svg("text", {x: left - 6, y: y(p) + 4, "text-anchor": "end"}, Math.round(100 * p) + " %"));
    chart.append(svg("text", {x: x(p), y: height - bottom + 15, "text-anchor": "middle"}, Math.round(100 * p) + " %"));
  }
  chart.append(svg("text", {x: x(0.5), y: height - 4, "text-anchor": "middle"}, "probability of the answer"));
  data.bins.forEach(([images, right, sum], i) => {
    const bar = svg("rect", {x: x(i / n) + 1, width: x(1 / n) - x(0) - 2, y: y(0.25 * images / most), height: y(0) - y(0.25 * images / most), fill: "var(--b)", opacity: 0.45});
    bar.append(svg("title", {}, `${images} images`));
    chart.append(bar);
  });
  chart.append(svg("line", {x1: x(0), y1: y(0), x2: x(1), y2: y(1), stroke: "var(--soft)", "stroke-dasharray": "5 4"}));
  const points = data.bins.filter(b => b[0] > 0).map(([images, right, sum]) => [sum / images, right / images, images]);
  chart.append(svg("polyline", {points: points.map(p => x(p[0]) + "," + y(p[1])).join(" "), fill: "none", stroke: "var(--a)", "stroke-width": 2}));
  for (const [p, accuracy, images] of points) {
    const dot = svg("circle", {cx: x(p), cy: y(accuracy), r: 4, fill: "var(--a)"});
    dot.append(svg("title", {}, `${images} images, mean probability ${percent(p)}, accuracy ${percent(accuracy)}`));
    chart.append(dot);
  }
  $("calibration").replaceChildren(chart);
}
const bar = c => {
  const chart = svg("svg", {viewBox: "0 0 200 14", width: 200, height: 14, role: "img", "aria-label": `${percent(c.top1)}, ${percent(c.low)} to ${percent(c.high)}`, style: "width:min(200px,30vw);display:inline-block;vertical-align:middle"});
  chart.append(svg("rect", {x: 0, y: 2, width: 200, height: 10, fill: "var(--panel)"}), svg("rect", {x: 0, y: 2, width: 200 * c.top1, height: 10, fill: "var(--a)"}),
    svg("line", {x1: 200 * c.low, x2: 200 * c.high, y1: 7, y2: 7, stroke: "var(--ink)", "stroke-width": 1.5}), ...[c.low, c.high].map(v => svg("line", {x1: 200 * v, x2: 200 * v, y1: 3, y2: 11, stroke: "var(--ink)", "stroke-width": 1.5})));
  return chart;
};
const columns = [["class", c => c.name, c => c.name], ["top-1", c => c.top1, c => percent(c.top1)], ["95 % interval", c => c.low, bar], ["top-5", c => c.top5, c => percent(c.top5)], ["images", c => c.images, c => String(c.images)], ["most often taken for", c => c.mistake, c => c.mistake]];
let sortBy = 1, ascending = true;
function classes() {
  $("columns").replaceChildren(...columns.map(([name], i) => {
    const cell = element("th", {textContent: name, tabIndex: 0, className: i === 5 ? "name" : ""});
    if (i === sortBy) cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    cell.onclick = () => { ascending = i === sortBy ? !ascending : true; sortBy = i; classes(); };
    cell.onkeydown = event => { if (event.key === "Enter") cell.onclick(); };
    return cell;
  }));
  const key = columns[sortBy][1], word = $("search").value.toLowerCase();
  const found = data.classes.filter(c => c.name.toLowerCase().includes(word)).sort((a, b) => { const x = key(a), y = key(b), order = typeof x === "string" ? x.localeCompare(y, "en", {numeric: true}) : x - y; return ascending ? order : -order; });
  const shown = $("all").checked ? found : found.slice(0, 20);
  $("rows").replaceChildren(...shown.map(c => element("tr", {}, ...columns.map(([, , show], i) => element("td", {className: i === 5 ? "name" : ""}, show(c))))));
}
function confusion() {
  const {names, counts, images} = data.table, all = names.length, n = Math.min(all, +$("count").value), cell = 28;
  const longest = Math.max(...names.slice(0, n).map(name => name.length), 4), left = Math.min(200, 7 * longest + 12), side = n * cell, trues = [...Array(n).keys()].filter(r => images[r] > 0), down = trues.length * cell;
  const chart = svg("svg", {viewBox: `0 0 ${left + side + 2} ${left + down + 2}`, role: "img", "aria-label": "confusion of the most confused classes", style: `width:${left + side + 2}px`});
  const cut = name => name.length > 27 ? name.slice(0, 26) + "\u2026" : name;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches, paper = dark ? [20, 23, 28] : [255, 255, 255];
  for (let c = 0; c < n; ++c) chart.append(svg("text", {transform: `translate(${left + c * cell + cell / 2 + 4} ${left - 6}) rotate(-90)`}, cut(names[c])));
  trues.forEach((r, at) => {
    chart.append(svg("text", {x: left - 6, y: left + at * cell + cell / 2 + 4, "text-anchor": "end"}, cut(names[r])));
    for (let c = 0; c < n; ++c) {
      const count = counts[r * all + c], part = Math.sqrt(count / images[r]), full = r === c ? (dark ? [108, 176, 255] : [8, 69, 148]) : (dark ? [240, 160, 75] : [179, 71, 0]);
      const colour = paper.map((v, i) => Math.round(v + (full[i] - v) * part));
      const box = svg("rect", {x: left + c * cell, y: left + at * cell, width: cell, height: cell, fill: count ? `rgb(${colour})` : "none", stroke: "var(--line)"});
      box.append(svg("title", {}, `${names[r]} taken for ${names[c]}: ${count} of ${images[r]}`));
      chart.append(box);
      if (count) chart.append(svg("text", {x: left + c * cell + cell / 2, y: left + at * cell + cell / 2 + 4, "text-anchor": "middle", style: `pointer-events:none;fill:${colour[0] * 0.3 + colour[1] * 0.6 + colour[2] * 0.1 > 140 ? "#14171c" : "#fff"}`}, String(count)));
    }
  });
  $("confusion").replaceChildren(chart);
}
calibration();
window.addEventListener("resize", calibration);
if ($("rows")) {
  const sizes = [10, 20, 40].filter((n, i, all) => i === 0 || all[i - 1] < data.table.names.length);
  $("count").append(...sizes.map(n => new Option(Math.min(n, data.table.names.length), n)));
  $("count").value = sizes[Math.min(1, sizes.length - 1)];
  $("count").onchange = confusion;
  $("all").onchange = $("search").oninput = classes;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", confusion);
  $("pairs").replaceChildren(...data.pairs.slice(0, 20).map(pair => element("tr", {}, ...pair.map((value, i) => element("td", {textContent: value, className: i === 1 ? "name" : ""})))));
  classes(); confusion();
}
</script></body></html>
)html";

}  // namespace

void AnswersToShow::add(const Shown& shown) {
  const bool right = is_right(shown);
  const auto bin =
      static_cast<size_t>(std::clamp(shown.probability, 0.0, 1.0) * static_cast<double>(bins.size()));
  Bin& of = bins[std::min(bin, bins.size() - 1)];
  ++of.images;
  of.right += right;
  of.probability += shown.probability;
  if (!right)
    keep(confidently_wrong, shown,
         [](const Shown& a, const Shown& b) { return a.probability > b.probability; });
  keep(least_certain, shown, [](const Shown& a, const Shown& b) { return a.probability < b.probability; });
}

double AnswersToShow::calibration_error() const {
  int64_t images = 0;
  double error = 0;
  for (const Bin& bin : bins) {
    images += bin.images;
    error += std::abs(static_cast<double>(bin.right) - bin.probability);
  }
  return images == 0 ? 0 : error / static_cast<double>(images);
}

std::string cards(const std::vector<Card>& all) {
  std::string list = "<ul class=\"cards\">\n";
  for (const Card& card : all)
    list += fmt::format("<li>{}<b>{}</b>{}</li>\n",
                        card.jpeg.empty()
                            ? std::string("<span class=\"none\">not readable</span>")
                            : fmt::format("<img alt=\"\" src=\"{}\">", data_uri("image/jpeg", card.jpeg)),
                        escaped(card.head), escaped(card.text));
  return list + "</ul>\n";
}

std::string eval_page(const EvalPage& eval) {
  const ClassCounts& total = eval.accuracy.total();
  std::string page = page_head("eval: " + eval.title) +
                     fmt::format("<body><h1>top-1 {}</h1>\n<p>{}</p>\n<div class=\"figures\">\n",
                                 percent(share(total.top1, total.images)), escaped(eval.title));
  const auto box = [&](const std::string& value, const std::string& text) {
    page += fmt::format("<div><strong>{}</strong><span>{}</span></div>\n", value, text);
  };
  const auto counted = [&](const char* what, int64_t right) {
    const Interval interval = wilson_interval(right, total.images);
    box(percent(share(right, total.images)),
        fmt::format("{}, {} of {}; 95 % interval {:.2f} to {:.2f} %", what, right, total.images,
                    100 * interval.low, 100 * interval.high));
  };
  counted("top-1", total.top1);
  if (!eval.several) {
    counted("top-5", total.top5);
    box(percent(eval.accuracy.mean_class_top1()), "mean of the classes");
  }
  box(percent(eval.answers.calibration_error()), "calibration error: mean of |accuracy &minus; probability|");
  if (total.no_answer > 0) box(std::to_string(total.no_answer), "images without an answer (NaN or infinite)");
  page += "</div>\n<dl>\n";
  for (const auto& [term, text] : eval.facts) page += definition(term, text);
  page += "</dl>\n";
  if (!eval.several) page += classes_section;
  page += calibration_section;
  page += "<h2>Most confidently wrong</h2>\n" + shown_cards(eval, eval.answers.confidently_wrong);
  page += "<h2>Least certain</h2>\n" + shown_cards(eval, eval.answers.least_certain);
  return page + details(eval.ran_on) + page_script(page_data(eval)) + script;
}

}  // namespace vmamba
