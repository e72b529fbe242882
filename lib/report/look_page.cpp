#include "lib/report/look_page.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "lib/images/preprocess.h"
#include "lib/report/canvas.h"
#include "lib/report/page.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

using Json = nlohmann::ordered_json;

std::string float_bytes(const std::vector<double>& values) {
  std::string bytes;
  for (const double value : values) {
    const auto single = static_cast<float>(value);
    char four[sizeof single];
    std::memcpy(four, &single, sizeof single);
    bytes.append(four, sizeof four);
  }
  return base64(bytes);
}

double largest(const std::vector<double>& values) {
  double most = 0;
  for (const double value : values) most = std::max(most, std::abs(value));
  return most;
}

// Counts of decay lengths in half powers of 10, from 10^-2 to 10^6 steps.
constexpr int decay_bins = 16;
std::vector<int> decay_histogram(const std::vector<double>& lengths) {
  std::vector<int> counts(decay_bins);
  for (const double length : lengths) {
    const double place = (std::log10(length) + 2) * 2;
    ++counts[static_cast<size_t>(std::clamp(place, 0.0, decay_bins - 1.0))];
  }
  return counts;
}

std::string map_title(const Look& look) {
  return fmt::format("{}, pixel ({}, {}) of {} x {}", look.layer, look.row, look.column, look.maps.height,
                     look.maps.width);
}

// --- The picture.

constexpr int panel = 208, gap = 16, title_height = 16;
constexpr Colour ink{28, 31, 36}, soft{92, 100, 112}, mark{214, 0, 90};

struct Cells {
  int64_t height, width;
  int left(int64_t column) const { return static_cast<int>(column * panel / width); }
  int top(int64_t row) const { return static_cast<int>(row * panel / height); }
};

template <class Fill>
void draw_cells(Canvas& canvas, int x, int y, const Cells& cells, const Fill& fill, double opacity = 1) {
  for (int64_t row = 0; row < cells.height; ++row)
    for (int64_t column = 0; column < cells.width; ++column)
      canvas.rectangle(x + cells.left(column), y + cells.top(row),
                       cells.left(column + 1) - cells.left(column), cells.top(row + 1) - cells.top(row),
                       fill(static_cast<size_t>(row * cells.width + column)), opacity);
}

void draw_mark(Canvas& canvas, int x, int y, const Look& look) {
  const Cells cells{look.maps.height, look.maps.width};
  const int left = cells.left(look.column), top = cells.top(look.row);
  canvas.frame(x + left - 2, y + top - 2, cells.left(look.column + 1) - left + 4,
               cells.top(look.row + 1) - top + 4, {255, 255, 255}, 1);
  canvas.frame(x + left - 1, y + top - 1, cells.left(look.column + 1) - left + 2,
               cells.top(look.row + 1) - top + 2, mark, 2);
}

double root(double share) {
  return std::copysign(std::sqrt(std::abs(share)), share);
}

// A colour bar with the values at its ends and quarters; the scale is that of square roots.
void draw_scale(Canvas& canvas, int x, int y, int width, double most, bool is_signed) {
  for (int i = 0; i < width; ++i) {
    const double s = static_cast<double>(i) / (width - 1);
    canvas.rectangle(x + i, y, 1, 8, is_signed ? diverging(2 * s - 1) : sequential(s));
  }
  for (int tick = 0; tick <= 4; ++tick) {
    const double s = is_signed ? tick / 2.0 - 1 : tick / 4.0;
    const std::string text = fmt::format("{:.2g}", std::copysign(s * s, s) * most);
    const int at = x + tick * (width - 1) / 4, half = text_width(text) / 2;
    canvas.rectangle(at, y + 8, 1, 3, ink);
    canvas.text(std::clamp(at - half, x, x + width - 2 * half), y + 13, text, ink);
  }
}

// --- The page.

Json page_data(const Look& look) {
  Json rows = Json::array();
  const auto add = [&](const std::string& title, const ScanRow& row) {
    rows.push_back({{"title", title},
                    {"magnitude", float_bytes(row.magnitude)},
                    {"contribution", float_bytes(row.contribution)},
                    {"weight", float_bytes(row.weight)}});
  };
  add("all directions together", look.maps.merged);
  for (size_t k = 0; k < look.maps.directions.size(); ++k)
    add(direction_title(look.order, static_cast<int>(k)), look.maps.directions[k]);
  Json data{{"picture", data_uri("image/jpeg", jpeg_of(look.picture, 90))},
            {"height", look.maps.height},
            {"width", look.maps.width},
            {"row", look.row},
            {"column", look.column},
            {"rows", std::move(rows)},
            {"decay", Json::array()}};
  for (const auto& lengths : look.maps.decay)
    data["decay"].push_back({{"counts", decay_histogram(lengths)},
                             {"low", quantile(lengths, 0.1)},
                             {"median", quantile(lengths, 0.5)},
                             {"high", quantile(lengths, 0.9)}});
  if (look.class_map)
    data["class"] = {{"height", look.class_map->height},
                     {"width", look.class_map->width},
                     {"values", float_bytes(look.class_map->values)}};
  return data;
}

constexpr const char* scan_section = R"html(<h2>What this output is made of</h2>
<p class="note">Each direction of the scan is, channel by channel, a product with a lower triangular matrix in its order of pixels. A map shows one row of it: the part of every pixel in the output of the marked pixel, as a mean over channels.</p>
<div class="controls">
<label>show <select id="quantity"><option value="magnitude">magnitude: |weight &middot; x|</option><option value="contribution">contribution: weight &middot; x</option><option value="weight">weight: the matrix itself</option></select></label>
<label>colours <select id="scale"><option value="0.25">by fourth root</option><option value="0.5">by square root</option><option value="1">linear</option></select></label>
<label>over the image <input type="range" id="opacity" min="0" max="100" value="60" aria-label="opacity"></label>
</div>
<div class="maps" id="maps"></div>
<div class="bar" id="scan-bar"></div><div class="scale" id="scan-scale"></div>
<output id="scan-value">Point at a map, or go there with Tab and the arrow keys.</output>
)html";

constexpr const char* decay_section = R"html(<h2>How long states last</h2>
<p class="note">Steps along a direction's sequence until a state has decayed to 1/e, at the mean step size of this image: the number of channels and states by length.</p>
<div class="maps charts" id="decay"></div>
)html";

constexpr const char* script = R"html(<script>
const picture = new Image();
let cursor = null;
// One map on a canvas, over the image; `colour`: of a share of the largest value, −1 to 1.
function draw(canvas, height, width, values, most, power, colour, marked) {
  const context = canvas.getContext("2d"), size = canvas.width;
  context.globalAlpha = 1;
  context.drawImage(picture, 0, 0, size, size);
  context.globalAlpha = $("opacity").value / 100;
  const x = c => Math.round(c * size / width), y = r => Math.round(r * size / height);
  values.forEach((value, i) => {
    const r = Math.floor(i / width), c = i % width, share = most > 0 ? Math.abs(value) / most : 0;
    context.fillStyle = `rgb(${colour(Math.sign(value) * share ** power)})`;
    context.fillRect(x(c), y(r), x(c + 1) - x(c), y(r + 1) - y(r));
  });
  context.globalAlpha = 1;
  const outline = (r, c, colours) => colours.forEach(([stroke, line]) => {
    context.strokeStyle = stroke; context.lineWidth = line;
    context.strokeRect(x(c) - 1, y(r) - 1, x(c + 1) - x(c) + 2, y(r + 1) - y(r) + 2);
  });
  if (marked) outline(marked[0], marked[1], [["#fff", 5], ["#d6005a", 3]]);
  if (cursor && cursor[0] < height && cursor[1] < width) outline(cursor[0], cursor[1], [["#fff", 3], ["#000", 1]]);
}
function scale(bar, numbers, most, power, signed) {
  bar.style.background = gradient(signed ? s => diverging(2 * s - 1) : ramp);
  numbers.replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map(at => {
    const s = signed ? 2 * at - 1 : at;
    return element("span", {textContent: figure(Math.sign(s) * Math.abs(s) ** (1 / power) * most)});
  }));
}
function watch(canvas, height, width, tell, redraw) {
  canvas.tabIndex = 0;
  const at = (r, c) => { cursor = [Math.max(0, Math.min(height - 1, r)), Math.max(0, Math.min(width - 1, c))]; redraw(); tell(...cursor); };
  canvas.onpointermove = canvas.onpointerdown = event => { const box = canvas.getBoundingClientRect(); at(Math.floor((event.clientY - box.top) * height / box.height), Math.floor((event.clientX - box.left) * width / box.width)); };
  canvas.onpointerleave = canvas.onblur = () => { cursor = null; redraw(); };
  canvas.onkeydown = event => {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (!step) return;
    event.preventDefault();
    const from = cursor || [data.row, data.column];
    at(from[0] + step[0], from[1] + step[1]);
  };
}
const rows = data.rows.map(row => ({title: row.title, magnitude: floats(row.magnitude), contribution: floats(row.contribution), weight: floats(row.weight)}));
const size = Math.max(448, 4 * Math.max(data.height, data.width));
const panels = rows.map(row => {
  const canvas = element("canvas", {width: size, height: size});
  canvas.setAttribute("aria-label", row.title);
  $("maps").append(element("figure", {}, element("figcaption", {textContent: row.title}), canvas));
  return canvas;
});
const tell = (row, r, c) => { const i = r * data.width + c; $("scan-value").textContent = `${row.title}, pixel (${r}, ${c}): magnitude ${figure(row.magnitude[i])}, contribution ${figure(row.contribution[i])}, weight ${figure(row.weight[i])}`; };
function draw_rows() {
  const quantity = $("quantity").value, power = +$("scale").value, signed = quantity !== "magnitude";
  const most = Math.max(...rows.map(row => row[quantity].reduce((m, v) => Math.max(m, Math.abs(v)), 0)));
  panels.forEach((canvas, i) => draw(canvas, data.height, data.width, rows[i][quantity], most, power, signed ? diverging : ramp, [data.row, data.column]));
  scale($("scan-bar"), $("scan-scale"), most, power, signed);
}
function draw_class() {
  if (!data.class) return;
  const values = floats(data.class.values), most = values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  draw($("class-map"), data.class.height, data.class.width, values, most, 1, diverging, null);
  scale($("class-bar"), $("class-scale"), most, 1, true);
}
function draw_all() { draw_rows(); draw_class(); }
panels.forEach((canvas, i) => watch(canvas, data.height, data.width, (r, c) => tell(rows[i], r, c), draw_rows));
if (data.class) watch($("class-map"), data.class.height, data.class.width, (r, c) => { $("class-value").textContent = `pixel (${r}, ${c}): ${figure(floats(data.class.values)[r * data.class.width + c])}`; }, draw_class);
$("quantity").onchange = $("scale").onchange = draw_rows;
$("opacity").oninput = draw_all;
picture.onload = draw_all;
picture.src = data.picture;

data.decay.forEach((decay, k) => {
  const width = 280, height = 150, bottom = 24, most = Math.max(...decay.counts), n = decay.counts.length, x = i => 8 + i * (width - 16) / n;
  const chart = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "decay lengths of k" + k});
  decay.counts.forEach((count, i) => {
    const bar = svg("rect", {x: x(i) + 1, width: x(1) - x(0) - 2, y: 10 + (height - bottom - 10) * (1 - count / most), height: (height - bottom - 10) * count / most, fill: "var(--a)"});
    bar.append(svg("title", {}, `${count} states: ${figure(10 ** (i / 2 - 2))} to ${figure(10 ** (i / 2 - 1.5))} steps`));
    chart.append(bar);
    if (i % 4 === 0) chart.append(svg("text", {x: x(i), y: height - 8, "text-anchor": i ? "middle" : "start"}, short(10 ** (i / 2 - 2))));
  });
  const at = v => x(Math.max(0, Math.min(n, (Math.log10(v) + 2) * 2)));
  chart.append(svg("line", {x1: at(decay.median), x2: at(decay.median), y1: 4, y2: height - bottom, stroke: "var(--ink)", "stroke-dasharray": "4 3"}));
  $("decay").append(element("figure", {}, element("figcaption", {textContent: `${data.rows[k + 1].title}: median ${short(decay.median)} steps, 80 % from ${short(decay.low)} to ${short(decay.high)}`}), chart));
});
</script></body></html>
)html";

}  // namespace

std::string direction_title(ScanOrder order, int k) {
  const ScanDirection direction = scan_direction(order, k);
  const char* way = direction.columns
                        ? (direction.reversed ? "columns, bottom to top" : "columns, top to bottom")
                        : (direction.reversed ? "rows, right to left" : "rows, left to right");
  return fmt::format("k{}: {}", k, way);
}

RowSummary summary_of(const Look& look, const ScanRow& row) {
  std::vector<double> by_distance(static_cast<size_t>(std::max(look.maps.height, look.maps.width)));
  double sum = 0;
  for (int64_t r = 0; r < look.maps.height; ++r)
    for (int64_t c = 0; c < look.maps.width; ++c) {
      const double value = row.magnitude[static_cast<size_t>(r * look.maps.width + c)];
      by_distance[static_cast<size_t>(std::max(std::abs(r - look.row), std::abs(c - look.column)))] += value;
      sum += value;
    }
  RowSummary summary;
  for (const double weight : row.weight) summary.weight += weight;
  if (!(sum > 0)) return summary;
  summary.self = by_distance[0] / sum;
  double within = 0;
  for (size_t distance = 0; distance < by_distance.size(); ++distance) {
    if (within < 0.5 * sum) summary.half = static_cast<int64_t>(distance);
    if (within < 0.9 * sum) summary.most = static_cast<int64_t>(distance);
    within += by_distance[distance];
  }
  return summary;
}

double quantile(const std::vector<double>& sorted, double part) {
  if (sorted.empty()) return 0;
  return sorted[static_cast<size_t>(part * static_cast<double>(sorted.size() - 1) + 0.5)];
}

std::string look_sheet(const Look& look) {
  const int columns = 4, rows = 3;
  const int top = 46, row_height = panel + title_height + gap + 26;
  Canvas canvas(columns * panel + (columns + 1) * gap, top + rows * row_height + gap);
  canvas.text(gap, 12, text_within(map_title(look), canvas.width() - 2 * gap, 2), ink, 2);
  canvas.text(gap, 33, text_within(look.file, canvas.width() - 2 * gap), soft);
  const auto x_of = [&](int column) { return gap + column * (panel + gap); };
  const auto y_of = [&](int row) { return top + row * row_height + title_height; };
  const auto title = [&](int column, int row, const std::string& text) {
    canvas.text(x_of(column), y_of(row) - 12, text_within(text, panel), ink);
  };
  const Image small = resize(look.picture, panel, panel, Interpolation::bicubic);
  title(0, 0, "input, output pixel marked");
  canvas.image(x_of(0), y_of(0), small);
  draw_mark(canvas, x_of(0), y_of(0), look);
  if (look.class_map) {
    const ClassMap& map = *look.class_map;
    const double most = largest(map.values);
    title(1, 0, fmt::format("class map of {} ({:.1f} %)", map.name, 100 * map.probability));
    canvas.image(x_of(1), y_of(0), small);
    draw_cells(
        canvas, x_of(1), y_of(0), {map.height, map.width},
        [&](size_t i) { return diverging(most > 0 ? root(map.values[i] / most) : 0); }, 0.6);
    draw_scale(canvas, x_of(1), y_of(0) + panel + 4, panel, most, true);
  }
  const Cells cells{look.maps.height, look.maps.width};
  const auto draw = [&](int column, int row, const std::string& text, const std::vector<double>& values,
                        double most, bool is_signed) {
    title(column, row, text);
    draw_cells(canvas, x_of(column), y_of(row), cells, [&](size_t i) {
      const double s = most > 0 ? root(values[i] / most) : 0;
      return is_signed ? diverging(s) : sequential(s);
    });
    draw_mark(canvas, x_of(column), y_of(row), look);
  };
  double most_weight = 0, most_magnitude = 0;
  for (const ScanRow& row : look.maps.directions) {
    most_weight = std::max(most_weight, largest(row.weight));
    most_magnitude = std::max(most_magnitude, largest(row.magnitude));
  }
  const ScanRow& merged = look.maps.merged;
  draw(2, 0, "all directions: magnitude |w x|", merged.magnitude, largest(merged.magnitude), false);
  draw_scale(canvas, x_of(2), y_of(0) + panel + 4, panel, largest(merged.magnitude), false);
  draw(3, 0, "all directions: weight", merged.weight, largest(merged.weight), true);
  draw_scale(canvas, x_of(3), y_of(0) + panel + 4, panel, largest(merged.weight), true);
  for (size_t k = 0; k < look.maps.directions.size(); ++k) {
    const auto column = static_cast<int>(k);
    const std::string name = direction_title(look.order, column);
    draw(column, 1, name + ": magnitude", look.maps.directions[k].magnitude, most_magnitude, false);
    draw(column, 2, name + ": weight", look.maps.directions[k].weight, most_weight, true);
  }
  draw_scale(canvas, x_of(0), y_of(1) + panel + 4, canvas.width() - 2 * gap, most_magnitude, false);
  draw_scale(canvas, x_of(0), y_of(2) + panel + 4, canvas.width() - 2 * gap, most_weight, true);
  return canvas.png();
}

std::string look_page(const Look& look) {
  std::string page =
      page_head("look: " + look.layer) +
      fmt::format("<body><h1>{}</h1>\n<p>{}</p>\n<dl>\n", escaped(map_title(look)), escaped(look.file));
  for (const auto& [term, text] : look.facts) page += definition(term, text);
  page += "</dl>\n";
  page += scan_section;
  if (look.class_map) {
    const ClassMap& map = *look.class_map;
    page += fmt::format(
        "<h2>Class activation map of {}</h2>\n<p class=\"note\">What every pixel of the last map adds to the logit: "
        "the mean of the map plus the bias {:.4g} is the logit {:.4g} (probability {:.2f} %). Orange speaks for the "
        "class, blue against it.</p>\n<div class=\"pair\"><div><canvas id=\"class-map\" width=\"448\" height=\"448\" "
        "aria-label=\"class activation map\"></canvas><div class=\"bar\" id=\"class-bar\"></div><div class=\"scale\" "
        "id=\"class-scale\"></div><output id=\"class-value\"></output></div></div>\n",
        escaped(map.name), map.bias, map.logit, 100 * map.probability);
  }
  return page + decay_section + details(look.ran_on) + page_script(page_data(look)) + script;
}

}  // namespace vmamba
