#include "lib/report/page.h"

#include <fmt/format.h>

#include <cstdint>
#include <nlohmann/json.hpp>

#include "lib/support/json.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

constexpr const char* style = R"html(<style>
:root { --ink:#1c1f24; --soft:#5c6470; --line:#d9dde3; --paper:#fff; --panel:#f6f7f9; --a:#1f6feb; --b:#b35900; --bad:#c4261d; --good:#1a7f37; }
@media (prefers-color-scheme: dark) {
  :root { --ink:#e6e9ee; --soft:#98a2b0; --line:#343b45; --paper:#14171c; --panel:#1d2229; --a:#6cb0ff; --b:#f0a04b; --bad:#ff7b72; --good:#56d364; }
}
* { box-sizing: border-box; }
body { margin:0 auto; max-width:1180px; padding:24px; font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif; color:var(--ink); background:var(--paper); }
h1 { font-size:26px; margin:0 0 4px; } h2 { font-size:17px; margin:32px 0 8px; }
.verdict { display:inline-block; padding:2px 12px; border-radius:6px; color:#fff; background:var(--good); margin-right:8px; }
.verdict.no { background:var(--bad); }
@media (prefers-color-scheme: dark) { .verdict { color:#0b0d10; } }
dl { display:grid; grid-template-columns:max-content 1fr; gap:2px 16px; margin:12px 0; }
dt { color:var(--soft); } dd { margin:0; overflow-wrap:anywhere; }
@media (max-width:600px) { body { padding:14px; } dl { display:block; } dd { margin:0 0 8px; } }
.causes { padding:0; list-style:none; } .causes li { padding:8px 12px; margin:6px 0; background:var(--panel); border-left:4px solid var(--bad); }
.equal .causes li { border-color:var(--soft); }
svg { display:block; width:100%; height:auto; } svg text { font:11px system-ui,sans-serif; fill:var(--soft); }
.legend span { margin-right:18px; color:var(--soft); font-size:13px; } .legend i { display:inline-block; width:18px; height:3px; vertical-align:middle; margin-right:6px; }
.pair { display:grid; grid-template-columns:1fr 1fr; gap:24px; } @media (max-width:800px) { .pair { grid-template-columns:1fr; } }
canvas { image-rendering:pixelated; width:100%; max-width:420px; border:1px solid var(--line); display:block; }
.scale { max-width:420px; display:flex; justify-content:space-between; font-size:12px; color:var(--soft); }
.bar { max-width:420px; height:10px; margin-top:6px; }
select { max-width:100%; } select, input { font:inherit; color:inherit; background:var(--panel); border:1px solid var(--line); border-radius:6px; padding:4px 8px; }
.wrap { overflow-x:auto; } table { border-collapse:collapse; width:100%; font-size:12.5px; font-variant-numeric:tabular-nums; }
th, td { padding:3px 6px; text-align:right; white-space:nowrap; border-bottom:1px solid var(--line); } th:first-child, td:first-child, .name { text-align:left !important; }
th { white-space:normal; vertical-align:bottom; position:sticky; top:0; background:var(--paper); cursor:pointer; user-select:none; } th:hover { color:var(--a); }
th[aria-sort=ascending]::after { content:" \25B2"; } th[aria-sort=descending]::after { content:" \25BC"; }
tbody tr { cursor:pointer; } tbody tr:hover, tbody tr.chosen { background:var(--panel); } tr.out td:first-child { color:var(--bad); font-weight:600; }
.note { color:var(--soft); font-size:13px; }
.cards { display:grid; grid-template-columns:repeat(auto-fill,minmax(150px,1fr)); gap:14px; padding:0; margin:8px 0; list-style:none; }
.cards li { background:var(--panel); border:1px solid var(--line); border-radius:8px; padding:8px; font-size:13px; overflow-wrap:anywhere; }
.cards img, .cards .none { display:block; width:100%; aspect-ratio:1; object-fit:cover; border-radius:4px; margin-bottom:6px; background:var(--line); image-rendering:auto; }
.cards .none { display:grid; place-items:center; color:var(--soft); } .cards b { display:block; }
.maps { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:16px; } .charts { grid-template-columns:repeat(auto-fit,minmax(240px,1fr)); } .maps figure { margin:0; } .maps canvas { max-width:none; cursor:crosshair; }
details { margin:24px 0; } summary { cursor:pointer; color:var(--soft); }
figcaption { font-size:13px; margin-bottom:4px; } output { display:block; min-height:1.5em; font-variant-numeric:tabular-nums; }
.controls { display:flex; flex-wrap:wrap; gap:8px 20px; align-items:center; margin:8px 0; } .controls input[type=range] { vertical-align:middle; padding:0; }
.figures { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:12px; margin:12px 0; } .figures div { background:var(--panel); border-radius:8px; padding:10px 14px; }
.figures strong { display:block; font-size:24px; } .figures span { color:var(--soft); font-size:13px; }
</style>
)html";

constexpr const char* script = R"html(<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const figure = x => x === null || x === undefined ? "" : x === 0 ? "0" : Math.abs(x) < 1e-3 || Math.abs(x) >= 1e5 ? x.toExponential(2) : x.toPrecision(4);
const short = x => x === null ? "\u221e" : String(+x.toPrecision(3));
const svg = (tag, attributes, text) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  return node;
};
const element = (tag, properties, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};
const between = (colours, s) => { const p = Math.min(colours.length - 1.001, Math.max(0, s * (colours.length - 1))), i = Math.floor(p), f = p - i; return colours[i].map((v, k) => Math.round(v + (colours[i + 1][k] - v) * f)); };
const ramp = s => between([[68,1,84],[59,82,139],[33,145,140],[94,201,98],[253,231,37]], s);
const diverging = s => between([[5,48,97],[67,147,195],[247,247,247],[224,130,20],[127,59,8]], (s + 1) / 2);
const gradient = colour => "linear-gradient(90deg," + [...Array(17).keys()].map(i => `rgb(${colour(i / 16)})`).join(",") + ")";
const floats = text => new Float32Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
</script>
)html";

}  // namespace

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : printable_lines(text)) {
    if (c == '<')
      result += "&lt;";
    else if (c == '>')
      result += "&gt;";
    else if (c == '&')
      result += "&amp;";
    else if (c == '"')
      result += "&quot;";
    else
      result += c;
  }
  return result;
}

std::string base64(std::string_view bytes) {
  static constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t three = 0;
    for (size_t j = 0; j < 3; ++j)
      three = three << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : 0u);
    for (size_t j = 0; j < 4; ++j) text += i + j <= bytes.size() ? digits[three >> (18 - 6 * j) & 63] : '=';
  }
  return text;
}

std::string data_uri(std::string_view type, std::string_view bytes) {
  return fmt::format("data:{};base64,{}", type, base64(bytes));
}

std::string page_head(std::string_view title) {
  return fmt::format(
             "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
             "content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n",
             escaped(title)) +
         style + "</head>\n";
}

std::string details(const std::vector<std::pair<std::string, std::string>>& rows) {
  std::string text = "<details><summary>What it ran on</summary><dl>\n";
  for (const auto& [term, value] : rows) text += definition(term, value);
  return text + "</dl></details>\n";
}

std::string definition(std::string_view term, std::string_view text) {
  return fmt::format("<dt>{}</dt><dd>{}</dd>\n", escaped(term), escaped(text));
}

std::string page_script(const nlohmann::ordered_json& data) {
  // "</script>" inside a name must not close the element.
  std::string text;
  for (const char c : dump_json(data)) {
    if (c == '<')
      text += "\\u003c";
    else
      text += c;
  }
  return "<script id=\"data\" type=\"application/json\">" + text + "</script>\n" + script;
}

}  // namespace vmamba
