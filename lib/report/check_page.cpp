#include "lib/report/check_page.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "lib/report/eval_page.h"
#include "lib/report/page.h"
#include "lib/report/thumbnails.h"
#include "lib/support/json.h"
#include "lib/support/text.h"
#include "lib/verify/agreement_report.h"
#include "lib/verify/check_report.h"
#include "lib/verify/truth_report.h"

namespace vmamba {
namespace {

using Json = nlohmann::ordered_json;

// A difference as one byte: 0 for none, then 4 steps per octave from 2^−40, 255 for not finite.
int level(float difference) {
  if (difference == 0) return 0;
  if (!std::isfinite(difference)) return 255;
  return std::clamp(static_cast<int>(std::lround((std::log2(difference) + 40) * 4)), 1, 254);
}

Json page_data(const CheckResult& result) {
  Json taps = Json::array();
  for (const Diff& diff : result.taps) {
    Json tap{{"name", diff.name}, {"shape", shape_string(diff.dims)}, {"within", diff.within()}};
    if (!diff.problem.empty()) {
      tap["problem"] = diff.problem;
      taps.push_back(std::move(tap));
      continue;
    }
    tap["identical"] = diff.identical();
    tap["bound"] = diff.bound;
    tap["max_abs"] = diff.figure(diff.max_abs);
    tap["max_rel"] = diff.figure(diff.max_rel);
    tap["mean_abs"] = diff.figure(diff.mean_abs());
    tap["l2"] = diff.figure(diff.relative_l2());
    tap["cosine"] = diff.figure(diff.cosine());
    tap["psnr"] = diff.figure(diff.psnr());
    tap["outside"] =
        static_cast<double>(diff.outside) / static_cast<double>(std::max<int64_t>(diff.elements, 1));
    tap["nonfinite"] = diff.nan_a + diff.inf_a + diff.nan_b + diff.inf_b;
    tap["worst"] = diff.place(diff.worst);
    if (const Diff* own = find_diff(result.own, diff.name)) tap["own"] = own->figure(own->max_abs);
    if (result.truth)
      for (const TruthTap& judged : result.truth->taps)
        if (judged.name == diff.name)
          tap["truth"] = {judged.relative_l2(judged.a), judged.relative_l2(judged.b)};
    // [binary exponent, count], and the number of equal elements.
    Json bins = Json::array();
    for (int e = 0; e < 256; ++e)
      if (diff.histogram[static_cast<size_t>(e)] > 0)
        bins.push_back({e - 127, diff.histogram[static_cast<size_t>(e)]});
    tap["bins"] = std::move(bins);
    tap["same"] = diff.elements - diff.differing;
    if (!diff.heat.empty() && diff.differing > 0) {
      std::string bytes;
      for (const float value : diff.heat) bytes += static_cast<char>(level(value));
      tap["heat"] = {{"h", diff.map_height}, {"w", diff.map_width}, {"levels", base64(bytes)}};
    }
    taps.push_back(std::move(tap));
  }
  const Diff* start = result.first_outside() ? result.first_outside() : result.first_differing();
  return {{"taps", std::move(taps)}, {"start", start ? start->name : result.taps.back().name}};
}

std::string flips(const LabelAgreement& labels) {
  constexpr size_t most = 48;
  const size_t shown = std::min(labels.flips.size(), most);
  std::vector<ImageRef> images;
  for (size_t i = 0; i < shown; ++i) images.push_back(labels.flips[i].image);
  const std::vector<std::string> jpegs = thumbnails(images, {.resize = 144, .crop = 144});
  const auto name = [&](int label) {
    const auto i = static_cast<size_t>(label);
    return label < 0                 ? "no answer"
           : i < labels.names.size() ? labels.names[i]
                                     : fmt::format("class {}", label);
  };
  std::vector<Card> all;
  for (size_t i = 0; i < shown; ++i) {
    const Flip& flip = labels.flips[i];
    all.push_back({jpegs[i], fmt::format("{} \u2192 {}", name(flip.a.label), name(flip.b.label)),
                   (flip.a.margin ? fmt::format("margin {:.3g} · ", *flip.a.margin) : "") + flip.file});
  }
  return fmt::format(
             "<h2>Images whose label flips</h2>\n<p class=\"note\">{} of {}{}; label of a \u2192 label of "
             "b; margin: a's largest logit less the next.</p>\n",
             labels.flips.size(), labels.images,
             shown < labels.flips.size() ? fmt::format(", the first {} shown", shown) : "") +
         cards(all);
}

constexpr const char* body = R"html(
<h2>Error by layer</h2>
<div class="legend"><span><i style="background:var(--a)"></i>largest |a &minus; b|</span><span><i style="background:var(--b)"></i>what the step adds by itself</span><span><i style="background:var(--soft)"></i>tolerance</span></div>
<div id="plot"></div>
<div class="note">Taps in order of computation. Red: outside tolerance. The lowest line also stands for no difference. Click a point to look at it.</div>
<h2>One tap: <select id="tap" aria-label="tap"></select></h2>
<div class="pair">
<div><div class="note" id="histogram-title"></div><div id="histogram"></div><div class="note" id="histogram-note"></div></div>
<div><div class="note" id="map-title"></div><canvas id="map"></canvas><div class="bar" id="map-bar"></div><div class="scale" id="map-scale"></div></div>
</div>
<h2>Every tap</h2>
<p><label><input type="checkbox" id="only"> only what differs</label> <input id="search" type="search" placeholder="name contains" aria-label="name contains"></p>
<div class="wrap"><table><thead><tr id="columns"></tr></thead><tbody id="rows"></tbody></table></div>
<script>
const taps = data.taps;
const columns = [
  ["tap", t => t.name, t => t.name], ["shape", t => t.shape, t => t.shape],
  ["max abs", t => t.max_abs, t => t.problem || figure(t.max_abs)], ["bound", t => t.bound, t => figure(t.bound)],
  ["max rel", t => t.max_rel, t => figure(t.max_rel)], ["mean abs", t => t.mean_abs, t => figure(t.mean_abs)],
  ["rel L2", t => t.l2, t => figure(t.l2)], ["cosine", t => t.cosine, t => t.problem || t.cosine === null ? "" : t.cosine.toFixed(7)],
  ["PSNR", t => t.psnr === null ? Infinity : t.psnr, t => t.problem || t.cosine === null ? "" : t.psnr === null ? "\u221e" : t.psnr.toFixed(1)],
  ["outside", t => t.outside, t => t.problem ? "" : (100 * t.outside).toPrecision(3) + " %"],
  ["NaN, inf", t => t.nonfinite, t => t.nonfinite || ""], ["by itself", t => t.own, t => figure(t.own)], ["worst at", t => t.worst, t => t.worst || ""]];
if (taps.some(t => t.truth))
  ["a", "b"].forEach((side, i) => columns.splice(-1, 0, [`${side} off truth, rel L2`, t => t.truth && t.truth[i], t => t.truth ? figure(t.truth[i]) : ""]));
let sortBy = -1, ascending = true, chosen = data.start;

function table() {
  $("columns").replaceChildren(...columns.map(([name], i) => {
    const cell = document.createElement("th");
    cell.textContent = name;
    cell.tabIndex = 0;
    if (i === sortBy) cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    cell.onclick = () => { ascending = i === sortBy ? !ascending : i < 2; sortBy = i; table(); };
    cell.onkeydown = event => { if (event.key === "Enter") cell.onclick(); };
    return cell;
  }));
  let shown = taps.filter(t => t.name.includes($("search").value) && !($("only").checked && t.identical));
  if (sortBy >= 0) {
    const key = columns[sortBy][1];
    shown = [...shown].sort((x, y) => {
      const a = key(x), b = key(y);
      const order = a === undefined ? -1 : b === undefined ? 1 : typeof a === "string" ? a.localeCompare(b, "en", {numeric: true}) : a - b;
      return ascending ? order : -order;
    });
  }
  $("rows").replaceChildren(...shown.map(t => {
    const row = document.createElement("tr");
    row.className = (t.within ? "" : "out ") + (t.name === chosen ? "chosen" : "");
    row.onclick = () => choose(t.name);
    for (const [, , text] of columns) row.insertCell().textContent = text(t);
    return row;
  }));
}

function plot() {
  const width = Math.max(280, $("plot").clientWidth), height = 280, left = 46, bottom = 40, top = 12;
  const positive = taps.flatMap(t => [t.max_abs, t.own, t.bound]).filter(x => x > 0).map(Math.log10);
  const low = Math.floor(Math.min(...positive, -8)), high = Math.ceil(Math.max(...positive, -4));
  const x = i => left + (width - left - 10) * (i + 0.5) / taps.length;
  const y = v => top + (height - top - bottom) * (v > 0 ? (high - Math.log10(v)) / (high - low) : 1);
  const picture = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "largest difference of every tap"});
  for (let e = low; e <= high; e += Math.max(1, Math.round((high - low) / 8))) {
    picture.append(svg("line", {x1: left, x2: width, y1: y(10 ** e), y2: y(10 ** e), stroke: css("--line")}));
    picture.append(svg("text", {x: left - 6, y: y(10 ** e) + 4, "text-anchor": "end"}, "1e" + e));
  }
  let stage = "";
  taps.forEach((t, i) => {
    const now = t.name.startsWith("layers.") ? t.name.split(".").slice(0, 2).join(".") : "";
    if (now && now !== stage) {
      picture.append(svg("line", {x1: x(i - 0.5), x2: x(i - 0.5), y1: top, y2: height - bottom + 6, stroke: css("--soft"), "stroke-dasharray": "2 3"}));
      picture.append(svg("text", {x: x(i - 0.5) + 4, y: height - bottom + 16}, now));
      stage = now;
    }
  });
  const line = (value, colour, dots) => {
    const points = taps.map((t, i) => [t, i]).filter(([t]) => value(t) !== undefined && value(t) !== null);
    picture.append(svg("polyline", {points: points.map(([t, i]) => x(i) + "," + y(value(t))).join(" "), fill: "none", stroke: colour, "stroke-width": dots ? 1.6 : 1}));
    if (dots) for (const [t, i] of points) {
      const dot = svg("circle", {cx: x(i), cy: y(value(t)), r: t.within ? 2.5 : 4, fill: t.within ? colour : css("--bad"), style: "cursor:pointer"});
      dot.append(svg("title", {}, `${t.name}\n|a - b| up to ${figure(t.max_abs)}, tolerance ${figure(t.bound)}\nby itself ${figure(t.own)}`));
      dot.onclick = () => choose(t.name);
      picture.append(dot);
    }
  };
  line(t => t.bound, css("--soft"), false);
  line(t => t.own, css("--b"), false);
  line(t => t.max_abs, css("--a"), true);
  const position = taps.findIndex(t => t.name === chosen);
  picture.append(svg("path", {d: `M${x(position)} ${height - bottom + 2} l-5 8 h10 z`, fill: css("--ink")}));
  $("plot").replaceChildren(picture);
}

function histogram(t) {
  $("histogram-title").textContent = t.problem ? t.problem : `Differences of ${t.name}: ${t.same} elements are the same`;
  const bins = t.bins || [];
  $("histogram-note").textContent = "";
  if (!bins.length) { $("histogram").replaceChildren(); return; }
  const width = Math.max(280, $("histogram").clientWidth), height = 280, left = 46, bottom = 24, top = 12, decade = Math.log10(2);
  const finite = bins.filter(([e]) => e < 128), low = Math.min(...finite.map(b => b[0])), high = Math.max(...finite.map(b => b[0])) + 1;
  const most = Math.log10(Math.max(...bins.map(b => b[1]))) + 0.3;
  const x = e => left + (width - left - 10) * (e - low) / Math.max(1, high - low), y = v => top + (height - top - bottom) * (1 - Math.log10(Math.max(v, 1)) / most);
  const picture = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "histogram of differences"});
  for (let e = 0; e <= most; ++e) {
    picture.append(svg("line", {x1: left, x2: width, y1: y(10 ** e), y2: y(10 ** e), stroke: css("--line")}));
    picture.append(svg("text", {x: left - 6, y: y(10 ** e) + 4, "text-anchor": "end"}, "1e" + e));
  }
  for (const [e, count] of finite) {
    const bar = svg("rect", {x: x(e) + 0.5, width: Math.max(1, x(e + 1) - x(e) - 1), y: y(count), height: Math.max(1, height - bottom - y(count)), fill: css("--a")});
    bar.append(svg("title", {}, `${count} elements: ${(2 ** e).toExponential(2)} to ${(2 ** (e + 1)).toExponential(2)}`));
    picture.append(bar);
  }
  const step = Math.max(1, Math.ceil((high - low) * decade * 60 / width));
  for (let d = Math.ceil(low * decade); d <= high * decade; d += step)
    picture.append(svg("text", {x: x(d / decade), y: height - bottom + 16, "text-anchor": "middle"}, "1e" + d));
  const bound = Math.log2(t.bound);
  if (bound >= low && bound <= high) picture.append(svg("line", {x1: x(bound), x2: x(bound), y1: top, y2: height - bottom, stroke: css("--bad"), "stroke-dasharray": "4 3"}));
  const infinite = bins.filter(([e]) => e >= 128).reduce((sum, b) => sum + b[1], 0);
  $("histogram-note").textContent = "Elements by |a - b|" + (bound >= low && bound <= high ? "; dashed: tolerance" : "") + (infinite ? `; ${infinite} not finite` : "");
  $("histogram").replaceChildren(picture);
}

function map(t) {
  const canvas = $("map");
  canvas.hidden = $("map-bar").hidden = $("map-scale").hidden = !t.heat;
  $("map-title").textContent = t.heat ? `Where ${t.name} differs: largest |a - b| over batch and channels, ${t.heat.h} x ${t.heat.w}` : t.identical ? "No difference to map" : "No map: not a feature map";
  if (!t.heat) return;
  const levels = Uint8Array.from(atob(t.heat.levels), c => c.charCodeAt(0)), finite = levels.filter(v => v > 0 && v < 255);
  const low = finite.length ? Math.min(...finite) : 1, high = finite.length ? Math.max(...finite) : 2;
  canvas.width = t.heat.w; canvas.height = t.heat.h;
  const context = canvas.getContext("2d"), image = context.createImageData(t.heat.w, t.heat.h);
  levels.forEach((v, i) => image.data.set(v === 0 ? [230, 230, 230, 255] : v === 255 ? [196, 38, 29, 255] : [...ramp((v - low) / Math.max(1, high - low)), 255], 4 * i));
  context.putImageData(image, 0, 0);
  $("map-bar").style.background = "linear-gradient(90deg," + [0, 0.25, 0.5, 0.75, 1].map(s => `rgb(${ramp(s)})`).join(",") + ")";
  const value = v => (2 ** (v / 4 - 40)).toExponential(1);
  $("map-scale").innerHTML = "";
  for (const text of [value(low), levels.some(v => v === 255) ? "red: not finite" : levels.some(v => v === 0) ? "grey: the same" : "", value(high)]) {
    const span = document.createElement("span");
    span.textContent = text;
    $("map-scale").append(span);
  }
}

function choose(name) {
  chosen = name;
  $("tap").value = name;
  const t = taps.find(each => each.name === name);
  histogram(t); map(t); plot(); table();
}
$("tap").append(...taps.map(t => new Option(t.name + (t.within ? "" : "  (outside)"), t.name)));
$("tap").onchange = () => choose($("tap").value);
$("only").onchange = $("search").oninput = table;
window.addEventListener("resize", () => choose(chosen));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => choose(chosen));
choose(chosen);
</script></body></html>
)html";

}  // namespace

std::string html_report(const std::vector<NamedResult>& cases, const Provenance& provenance) {
  const auto differing =
      std::find_if(cases.begin(), cases.end(), [](const NamedResult& each) { return !each.result.equal(); });
  const CheckResult& result = differing == cases.end() ? cases.back().result : differing->result;
  std::string page = page_head("check-equal");
  const auto row = [&](const std::string& term, const std::string& text) { page += definition(term, text); };
  page += fmt::format(
      "<body class=\"{0}\"><h1><span class=\"verdict {1}\">{0}</span></h1>\n<p>{2}</p>\n<dl>\n",
      equal(cases) ? "equal" : "different", equal(cases) ? "yes" : "no", escaped(summary(result)));
  for (const NamedResult& each : cases)
    if (cases.size() > 1) row(each.name, summary(each.result));
  row("a", side_a(result));
  row("b", side_b(result));
  row("input", result.input);
  row("tolerance", tolerance_line(result));
  const auto name = [](const Diff* diff) { return diff ? diff->name : std::string("none"); };
  row("first to differ", name(result.first_differing()));
  row("first outside", name(result.first_outside()));
  row("labels",
      fmt::format("top-1 agrees for {} of {}, top-5 for {}", result.agreement.top1,
                  counted(static_cast<size_t>(result.agreement.images), "image"), result.agreement.top5));
  if (result.labels) row("data set", agreement_summary(*result.labels));
  if (result.truth) row("truth", fmt::format("{}", fmt::join(truth_verdict(*result.truth), "; ")));
  page += "</dl>\n<ul class=\"causes\">\n";
  for (const std::string& cause : result.causes) page += fmt::format("<li>{}</li>\n", escaped(cause));
  for (const std::string& note : result.notes) page += fmt::format("<li>note: {}</li>\n", escaped(note));
  page += "</ul>\n";
  if (result.labels && !result.labels->flips.empty()) page += flips(*result.labels);
  page += details(rows(provenance)) + page_script(page_data(result));
  return page + body;
}

}  // namespace vmamba
