// The YAML of the Python project (classification/configs, read there by yacs over the defaults of config.py)
// as this program's JSON. Training's keys are left out; an unknown key of MODEL.VSSM is refused, since it may
// change the model.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "kernels/error.h"
#include "lib/config/config.h"
#include "lib/config/migrate.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

using Json = nlohmann::ordered_json;

enum Section { model, vssm, data, test, section_count };
constexpr std::array<std::string_view, section_count> section_names{"MODEL", "MODEL.VSSM", "DATA", "TEST"};

// A key of the YAML → a key of the JSON, in the order of the JSON.
struct Row {
  Section section;
  std::string_view yaml, json;
  const char* standard;  // JSON: what config.py takes where the file is silent; null: the key stays away
  std::string_view older = {};  // its name in early 2024
};
constexpr Row rows[] = {
    {model, "NAME", "name", nullptr},
    {vssm, "PATCH_SIZE", "patch_size", "4"},
    {vssm, "IN_CHANS", "in_chans", "3"},
    {model, "NUM_CLASSES", "num_classes", "1000"},
    {vssm, "DEPTHS", "depths", "[2, 2, 9, 2]"},
    {vssm, "EMBED_DIM", "dims", "96"},
    {vssm, "SSM_D_STATE", "ssm_d_state", "16", "D_STATE"},
    {vssm, "SSM_RATIO", "ssm_ratio", "2.0"},
    {vssm, "SSM_DT_RANK", "ssm_dt_rank", "\"auto\"", "DT_RANK"},
    {vssm, "SSM_ACT_LAYER", "ssm_act_layer", "\"silu\""},
    {vssm, "SSM_CONV", "ssm_conv", "3"},
    {vssm, "SSM_CONV_BIAS", "ssm_conv_bias", "true"},
    {vssm, "SSM_INIT", "ssm_init", "\"v0\""},
    {vssm, "SSM_FORWARDTYPE", "forward_type", "\"v2\""},
    {vssm, "MLP_RATIO", "mlp_ratio", "4.0"},
    {vssm, "MLP_ACT_LAYER", "mlp_act_layer", "\"gelu\""},
    {vssm, "GMLP", "gmlp", "false"},
    {vssm, "PATCH_NORM", "patch_norm", "true"},
    {vssm, "NORM_LAYER", "norm_layer", "\"ln\""},
    {vssm, "DOWNSAMPLE", "downsample_version", "\"v2\""},
    {vssm, "PATCHEMBED", "patchembed_version", "\"v2\""},
    {vssm, "POSEMBED", "posembed", "false"},
    {data, "IMG_SIZE", "imgsize", "224"},
    {model, "DROP_PATH_RATE", "drop_path_rate", nullptr},
    {vssm, "SSM_DROP_RATE", "ssm_drop_rate", nullptr},
    {vssm, "MLP_DROP_RATE", "mlp_drop_rate", nullptr},
};

// Walks the document before any node of it exists and refuses what could make a small file large.
class Guard : public YAML::EventHandler {
 public:
  explicit Guard(const std::string& where) : where_(where) {}
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail_input("{}:{}: an alias (*name); aliases are not read, write the value out", where_, mark.line + 1);
  }
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    deeper(mark);
  }
  void OnSequenceEnd() override { --depth_; }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    deeper(mark);
  }
  void OnMapEnd() override { --depth_; }

 private:
  void deeper(const YAML::Mark& mark) {
    if (++depth_ > 32) fail_input("{}:{}: nested deeper than 32 levels", where_, mark.line + 1);
  }

  const std::string& where_;
  int depth_ = 0;
};

class Converter {
 public:
  explicit Converter(const std::string& where) : where_(where) {}

  void convert(const YAML::Node& root) {
    if (!root.IsMap())
      fail_input("{}: expected a config of the Python project: a mapping with MODEL", where_);
    refuse_base(member(root, "the file", "BASE"));
    const YAML::Node model_node = member(root, "the file", "MODEL");
    if (!model_node.IsDefined())
      fail_input("{}: has no MODEL; is it a config of the Python project?", where_);
    sections_ = {model_node, member(model_node, "MODEL", "VSSM"), member(root, "the file", "DATA"),
                 member(root, "the file", "TEST")};
    const YAML::Node type = member(model_node, "MODEL", "TYPE");
    if (type.IsDefined() && !(type.IsScalar() && lower_case(type.Scalar()) == "vssm")) {
      fail_input("{}: MODEL.TYPE: expected vssm, got {}", line(type),
                 type.IsScalar() ? in_quotes(type.Scalar()) : "a collection");
    }
    refuse_unknown();

    for (const Row& row : rows) {
      auto [node, from] = find(row);
      if (node.IsDefined()) {
        // A name may look like a number.
        Json json = row.json == "name" && node.IsScalar() ? Json(node.Scalar()) : value(node, from);
        set(row.json, std::move(json), from, true, "the constructor's own keyword");
      } else if (row.standard) {
        set(row.json, Json::parse(row.standard), "(absent)", true,
            "what the Python project's config.py takes where the file is silent");
      }
    }
    check_rank_ratio();
    set_preprocess();
  }

  // One key a line, lists on one line, as the files of configs/ are.
  std::string text() const {
    std::string out = "{";
    for (const auto& [key, value] : config_.items()) {
      out += fmt::format("{}\n  {}: ", out.size() > 1 ? "," : "", json_text(key));
      out += value.is_array() || value.is_object() ? spaced(value) : json_text(value);
    }
    return out + "\n}\n";
  }
  std::vector<MigrationChange> changes;

 private:
  std::string line(const YAML::Node& node) const {
    return fmt::format("{}:{}", where_, node.Mark().line + 1);
  }

  static std::string json_text(const Json& value) {
    return value.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  static std::string spaced(const Json& value) {
    std::string out;
    for (const auto& [key, item] : value.items()) {
      out += out.empty() ? "" : ", ";
      out += value.is_object() ? json_text(key) + ": " + json_text(item) : json_text(item);
    }
    return value.is_object() ? "{" + out + "}" : "[" + out + "]";
  }

  // A mapping's member; a key that stands twice is refused.
  YAML::Node member(const YAML::Node& map, std::string_view path, std::string_view key) const {
    YAML::Node found(YAML::NodeType::Undefined);
    if (!map.IsDefined() || map.IsNull()) return found;
    if (!map.IsMap()) fail_input("{}: {}: expected a mapping", line(map), path);
    for (const auto& entry : map) {
      if (!entry.first.IsScalar() || entry.first.Scalar() != key) continue;
      if (found.IsDefined()) fail_input("{}: {} stands twice in {}; keep one", line(entry.first), key, path);
      found.reset(entry.second);
    }
    return found;
  }

  std::pair<YAML::Node, std::string> find(const Row& row) const {
    const std::string_view section = section_names[row.section];
    const YAML::Node node = member(sections_[row.section], section, row.yaml);
    if (row.older.empty()) return {node, fmt::format("{}.{}", section, row.yaml)};
    const YAML::Node older = member(sections_[row.section], section, row.older);
    if (!older.IsDefined()) return {node, fmt::format("{}.{}", section, row.yaml)};
    if (node.IsDefined()) {
      fail_input("{}: {} is the old name of {}, which is here too; keep one", line(older), row.older,
                 row.yaml);
    }
    return {older, fmt::format("{}.{}", section, row.older)};
  }

  void refuse_base(const YAML::Node& base) const {
    if (!base.IsDefined() || base.IsNull()) return;
    bool empty = base.IsScalar() && base.Scalar().empty();
    if (base.IsSequence()) {
      empty = true;
      for (const auto& file : base) empty = empty && file.IsScalar() && file.Scalar().empty();
    }
    if (!empty) fail_input("{}: BASE names another file; copy its keys into this one first", line(base));
  }

  void refuse_unknown() const {
    if (!sections_[vssm].IsDefined() || !sections_[vssm].IsMap()) return;
    std::vector<std::string_view> known{"SSM_RANK_RATIO"};
    for (const Row& row : rows) {
      if (row.section != vssm) continue;
      known.push_back(row.yaml);
      if (!row.older.empty()) known.push_back(row.older);
    }
    for (const auto& entry : sections_[vssm]) {
      const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "a collection";
      if (std::ranges::find(known, key) != known.end()) continue;
      const std::string_view guess = nearest(key, known);
      fail_input("{}: MODEL.VSSM.{}: unknown key{}; known: {}", line(entry.first), printable(key),
                 guess.empty() ? "" : fmt::format(", did you mean {}?", in_quotes(guess)), joined(known));
    }
  }

  // What PyYAML makes of a plain value: an integer, a number, true or false, else a string.
  Json scalar(const YAML::Node& node, const std::string& from) const {
    const std::string& text = node.Scalar();
    if (node.IsNull() || (node.Tag() != "!" && (text.empty() || text == "~" || text == "null"))) {
      fail_input("{}: {}: has no value", line(node), from);
    }
    if (node.Tag() == "!") return text;  // in quotes
    int64_t integer = 0;
    double number = 0;
    bool truth = false;
    if (text.find_first_not_of("+-0123456789") == std::string::npos &&
        YAML::convert<int64_t>::decode(node, integer)) {
      return integer;
    }
    if (text.find_first_not_of("+-.0123456789eE") == std::string::npos &&
        YAML::convert<double>::decode(node, number)) {
      return number;
    }
    if (YAML::convert<bool>::decode(node, truth)) return truth;
    return text;
  }

  Json value(const YAML::Node& node, const std::string& from) const {
    if (node.IsScalar() || node.IsNull()) return scalar(node, from);
    if (!node.IsSequence() || node.size() > 64)
      fail_input("{}: {}: expected a value or a short list", line(node), from);
    Json list = Json::array();
    for (const auto& item : node) {
      if (!item.IsScalar()) fail_input("{}: {}: expected a list of plain values", line(item), from);
      list.push_back(scalar(item, from));
    }
    return list;
  }

  void set(std::string_view key, Json json, const std::string& from, bool exact, std::string_view why) {
    changes.push_back({fmt::format("/{}", key), from, spaced_or_plain(json), exact, std::string(why)});
    config_[std::string(key)] = std::move(json);
  }
  static std::string spaced_or_plain(const Json& json) {
    return json.is_structured() ? spaced(json) : json_text(json);
  }

  // Older releases could scan fewer channels than the block has; this program cannot.
  void check_rank_ratio() const {
    const YAML::Node node = member(sections_[vssm], "MODEL.VSSM", "SSM_RANK_RATIO");
    if (!node.IsDefined()) return;
    const Json ratio = value(node, "MODEL.VSSM.SSM_RANK_RATIO"), &whole = config_["ssm_ratio"];
    if (!ratio.is_number() || !whole.is_number() ||
        (ratio.get<double>() > 0 && ratio.get<double>() < whole.get<double>())) {
      fail_input("{}: MODEL.VSSM.SSM_RANK_RATIO: a scan narrower than SSM_RATIO cannot be expressed here",
                 line(node));
    }
  }

  void set_preprocess() {
    const YAML::Node interpolation = member(sections_[data], "DATA", "INTERPOLATION");
    const YAML::Node crop = member(sections_[test], "TEST", "CROP");
    Json preprocess = Json::object();
    bool exact = true;
    std::string from;
    if (interpolation.IsDefined() && interpolation.IsScalar() && interpolation.Scalar() != "bicubic") {
      const std::string& method = interpolation.Scalar();
      if (method == "lanczos" || method == "hamming") {
        fail_input("{}: DATA.INTERPOLATION: {} cannot be expressed here; known: bicubic, bilinear",
                   line(interpolation), in_quotes(method));
      }
      preprocess["interpolation"] = "bilinear";  // what the project does for every other word
      from = "DATA.INTERPOLATION";
    }
    if (crop.IsDefined() && crop.IsScalar() && value(crop, "TEST.CROP") == false) {
      preprocess["resize"] = config_["imgsize"];
      preprocess["crop"] = config_["imgsize"];
      exact = false;
      from = "TEST.CROP";
    }
    if (preprocess.empty()) return;
    set("preprocess", preprocess, from, exact,
        exact ? "how images are resized"
              : "the project squeezes the whole image into a square; here the short side is resized and the "
                "square is cut "
                "from the middle");
  }

  const std::string& where_;
  std::array<YAML::Node, section_count> sections_;
  Json config_ = Json::object();
};

}  // namespace

Migration migrate_yaml(std::string_view text, const std::string& where) {
  try {
    std::istringstream guarded{std::string(text)};
    YAML::Parser parser(guarded);
    Guard guard(where);
    int documents = 0;
    while (parser.HandleNextDocument(guard)) {
      if (++documents > 1) fail_input("{}: more than one YAML document; keep one", where);
    }
    Converter converter(where);
    converter.convert(YAML::Load(std::string(text)));
    Migration migration = migrate_json(converter.text(), where);
    // What the table changed is told by the table; the rest by its origin.
    std::vector<MigrationChange> changes = std::move(converter.changes);
    changes.insert(changes.end(), migration.changes.begin(), migration.changes.end());
    migration.changes = std::move(changes);
    parse_config(migration.text, where + " as JSON");
    return migration;
  } catch (const YAML::Exception& error) {
    fail_input("{}:{}: not YAML: {}", where, error.mark.line + 1, printable(error.msg, 200));
  }
}

}  // namespace vmamba
