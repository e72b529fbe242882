// Parts of the HTML pages. A page is one file that loads nothing; all names in it are escaped.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vmamba {

std::string escaped(std::string_view text);
std::string base64(std::string_view bytes);
// For an element's src: "data:image/jpeg;base64,…".
std::string data_uri(std::string_view type, std::string_view bytes);

// Everything before <body>, with the styles of all pages.
std::string page_head(std::string_view title);
// A row of a <dl>.
std::string definition(std::string_view term, std::string_view text);
// Rows of a <dl> that is opened by a click: what a result was computed from.
std::string details(const std::vector<std::pair<std::string, std::string>>& rows);
// A <script> that defines `data` and the functions that the pages share: formatting,
// elements, colour scales.
std::string page_script(const nlohmann::ordered_json& data);

}  // namespace vmamba
