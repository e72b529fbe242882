// Converts the Python project's YAML (classification/configs, read there by yacs over the defaults of config.py)
// to this program's JSON. Training keys are dropped; an unknown key of MODEL.VSSM is refused, as it may change
// the model.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "kernels/error.h"
#include "lib/config/config.h"
#include "lib/config/migrate.h"
#include "lib/config/migrate_rules.h"
#include "lib/support/files.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

using Json = nlohmann::ordered_json;

enum Section { model, vssm, data, test, section_count };
constexpr std::array<std::string_view, section_count> section_names{"MODEL", "MODEL.VSSM", "DATA", "TEST"};

// The release whose config.py and builder a file was written for (docs/migration.md, "Ages of a YAML").
enum Age { first, second, third, age_count };
constexpr std::array<std::string_view, age_count> age_names{"the first release (to 27 January 2024)",
                                                            "the releases of 28 January to 15 February 2024",
                                                            "the releases since 15 February 2024"};

// Maps a YAML key to a JSON key, in the order of the JSON.
struct Row {
  Section section;
  std::string_view yaml, json;
  // JSON default by age: config.py's value if the file does not set the key. Before `read_since`, the first age whose
  // builder passes the key on, it is the value in the class, whatever the file says. nullptr: omit the key.
  std::array<const char*, age_count> standard{};
  Age read_since = first;
  std::string_view older = {};  // its name in the second age
};
constexpr std::array<const char*, age_count> always(const char* json) {
  return {json, json, json};
}
constexpr Row rows[] = {
    {model, "NAME", "name"},
    {vssm, "PATCH_SIZE", "patch_size", always("4")},
    {vssm, "IN_CHANS", "in_chans", always("3")},
    {model, "NUM_CLASSES", "num_classes", always("1000")},
    {vssm, "DEPTHS", "depths", always("[2, 2, 9, 2]")},
    {vssm, "EMBED_DIM", "dims", always("96")},
    {vssm, "SSM_D_STATE", "ssm_d_state", always("16"), second, "D_STATE"},
    {vssm, "SSM_RATIO", "ssm_ratio", always("2.0"), second},
    {vssm, "SSM_DT_RANK", "ssm_dt_rank", always("\"auto\""), second, "DT_RANK"},
    {vssm, "SSM_ACT_LAYER", "ssm_act_layer", always("\"silu\""), third},
    {vssm, "SSM_CONV", "ssm_conv", always("3"), third},
    {vssm, "SSM_CONV_BIAS", "ssm_conv_bias", always("true"), third},
    {vssm, "SSM_INIT", "ssm_init", always("\"v0\""), third},
    {vssm, "SSM_FORWARDTYPE", "forward_type", {"\"v0\"", "\"v03\"", "\"v2\""}, third},
    {vssm, "MLP_RATIO", "mlp_ratio", {"0.0", "4.0", "4.0"}, second},
    {vssm, "MLP_ACT_LAYER", "mlp_act_layer", always("\"gelu\""), third},
    {vssm, "GMLP", "gmlp", always("false"), third},
    {vssm, "PATCH_NORM", "patch_norm", always("true"), third},
    {vssm, "NORM_LAYER", "norm_layer", always("\"ln\""), third},
    {vssm, "DOWNSAMPLE", "downsample_version", {"\"v1\"", "\"v2\"", "\"v2\""}, second},
    {vssm, "PATCHEMBED", "patchembed_version", {"\"v1\"", "\"v1\"", "\"v2\""}, third},
    {vssm, "POSEMBED", "posembed", always("false"), third},
    {data, "IMG_SIZE", "imgsize", always("224")},
    {model, "DROP_PATH_RATE", "drop_path_rate"},
    {vssm, "SSM_DROP_RATE", "ssm_drop_rate", {}, third},
    {vssm, "MLP_DROP_RATE", "mlp_drop_rate", {}, third},
};

// Checks the document's events before any node is built, and refuses constructs that make a small file expand.
class Guard : public YAML::EventHandler {
 public:
  explicit Guard(const std::string& where) : where_(where) {}
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { one_more(mark); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail_input("{}:{}: an alias (*name); aliases are not read, write the value out", where_, mark.line + 1);
  }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t, const std::string&) override {
    one_more(mark);
  }
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
  void one_more(const YAML::Mark& mark) {
    if (++values_ > max_json_values)
      fail_input("{}:{}: more than {} keys and values", where_, mark.line + 1, max_json_values);
  }
  void deeper(const YAML::Mark& mark) {
    one_more(mark);
    if (++depth_ > 32) fail_input("{}:{}: nested deeper than 32 levels", where_, mark.line + 1);
  }

  const std::string& where_;
  int depth_ = 0;
  size_t values_ = 0;
};

// The sections of one file: the file itself, or one named in its BASE.
struct Layer {
  std::string where;
  std::array<YAML::Node, section_count> sections{};
};

// A value with its layer and path ("MODEL.VSSM.DEPTHS"); layer is nullptr if it is absent.
struct Found {
  const Layer* layer = nullptr;
  YAML::Node node;
  std::string path;

  explicit operator bool() const { return layer != nullptr; }
  std::string line() const { return fmt::format("{}:{}", layer->where, node.Mark().line + 1); }
  std::string place() const { return fmt::format("{}: {}", line(), path); }
};

std::string json_text(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}
std::string spaced(const Json& value) {  // a list or an object on one line, as in the files of configs/
  if (!value.is_structured()) return json_text(value);
  std::string out;
  for (const auto& [key, item] : value.items()) {
    out += out.empty() ? "" : ", ";
    out += value.is_object() ? json_text(key) + ": " + json_text(item) : json_text(item);
  }
  return value.is_object() ? "{" + out + "}" : "[" + out + "]";
}

// A member of a mapping, undefined if absent; duplicate keys are refused.
YAML::Node member(const std::string& where, const YAML::Node& map, std::string_view path,
                  std::string_view key) {
  YAML::Node found(YAML::NodeType::Undefined);
  if (!map.IsDefined() || map.IsNull()) return found;
  if (!map.IsMap()) fail_input("{}:{}: {}: expected a mapping", where, map.Mark().line + 1, path);
  for (const auto& entry : map) {
    if (!entry.first.IsScalar() || entry.first.Scalar() != key) continue;
    if (found.IsDefined()) {
      fail_input("{}:{}: {} stands twice in {}; keep one", where, entry.first.Mark().line + 1, key, path);
    }
    found.reset(entry.second);
  }
  return found;
}

// Resolves a plain scalar as PyYAML does: an integer, a number, a boolean, else a string.
Json scalar(const YAML::Node& node, const std::string& place) {
  const std::string& text = node.Scalar();
  if (node.IsNull() || (node.Tag() != "!" && (text.empty() || text == "~" || text == "null")))
    fail_input("{}: has no value", place);
  if (node.Tag() == "!") return text;  // quoted
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

Json value(const Found& found) {
  const std::string place = found.place();
  if (found.node.IsScalar() || found.node.IsNull()) return scalar(found.node, place);
  if (!found.node.IsSequence() || found.node.size() > 64)
    fail_input("{}: expected a value or a short list", place);
  Json list = Json::array();
  for (const auto& item : found.node) {
    if (!item.IsScalar()) fail_input("{}: expected a list of plain values", place);
    list.push_back(scalar(item, place));
  }
  return list;
}

class Converter {
 public:
  // `layers`: earlier ones override later ones.
  Converter(const std::vector<Layer>& layers, Age age) : layers_(layers), age_(age) {
    for (const Row& row : rows) take(row);
    take_switches();
    check_rank_ratio();
    set_preprocess();
  }

  // One key per line.
  std::string text() const {
    std::string out = "{";
    for (const auto& [key, json] : config_.items())
      out += fmt::format("{}\n  {}: {}", out.size() > 1 ? "," : "", json_text(key), spaced(json));
    return out + "\n}\n";
  }

  std::vector<MigrationChange> changes;
  std::map<std::string, std::string, std::less<>> origins;  // of the JSON's keys

 private:
  Found find(Section section, std::string_view key, std::string_view older = {}) const {
    const std::string_view name = section_names[section];
    for (const Layer& layer : layers_) {
      YAML::Node node = member(layer.where, layer.sections[section], name, key);
      const YAML::Node old = older.empty() ? YAML::Node(YAML::NodeType::Undefined)
                                           : member(layer.where, layer.sections[section], name, older);
      if (old.IsDefined() && node.IsDefined()) {
        fail_input("{}:{}: {} is the old name of {}, which is here too; keep one", layer.where,
                   old.Mark().line + 1, older, key);
      }
      if (old.IsDefined()) return {&layer, old, fmt::format("{}.{}", name, older)};
      if (node.IsDefined()) return {&layer, node, fmt::format("{}.{}", name, key)};
    }
    return {};
  }

  void take(const Row& row) {
    const Found found = find(row.section, row.yaml, row.older);
    const char* standard = row.standard[age_];
    if (found && age_ < row.read_since) {  // set in the file, but ignored by the builder of that age
      if (!standard) return;
      set(row.json, Json::parse(standard), found.place(), printable(spaced(value(found))), true,
          fmt::format("{} never read it", age_names[age_]));
    } else if (found) {
      // a name may look like a number
      Json json = row.json == "name" && found.node.IsScalar() ? Json(found.node.Scalar()) : value(found);
      const std::string before = printable(spaced(json));
      set(row.json, std::move(json), found.place(), before, true, "the constructor's own keyword");
    } else if (standard) {
      set(row.json, Json::parse(standard), absent(row), "(absent)", true,
          age_ < row.read_since ? fmt::format("{} had this alone", age_names[age_])
                                : fmt::format("the default of {}", age_names[age_]));
    }
  }
  std::string absent(const Row& row) const {
    return fmt::format("{}: {}.{}", layers_.front().where, section_names[row.section], row.yaml);
  }

  void set(std::string_view key, Json json, const std::string& place, const std::string& before, bool exact,
           std::string why) {
    origins[std::string(key)] = place;
    if (key == "forward_type" && json.is_string()) {
      if (const auto modern = migrated_forward_type(json.get<std::string>())) {
        json = modern->forward_type;
        exact = modern->exact;
        why = modern->why;
        if (!modern->forward_core_version.empty())
          set("forward_core_version", modern->forward_core_version, place, "(absent)", exact, why);
      } else if (age_ == second) {
        exact = false;
        why +=
            "; the same with float32: until 4 February 2024 the scan's results were rounded to 16 bits, as "
            "forward_core_version \"v1\" rounds";
      }
    }
    changes.push_back({place, before, fmt::format("{}: {}", json_text(key), spaced(json)), exact, why});
    config_[std::string(key)] = std::move(json);
  }

  void take_switches() {
    for (const OldSwitch& row : old_switches) {
      const Found found = find(vssm, row.key);
      if (!found) continue;
      const Json json = value(found);
      if (!json.is_boolean()) fail_input("{}: expected true or false", found.place());
      if (json.get<bool>() && !row.harmless) fail_input("{}: {}", found.place(), row.on);
      if (json.get<bool>() && row.key == "SSM_SIMPLE_INIT") {
        set("ssm_init", "v1", found.place(), "true", true, std::string(row.on));
      } else {
        changes.push_back({found.place(), json_text(json), "(removed)", true, std::string(row.off)});
      }
    }
  }

  // Older releases could scan fewer channels than the block has; this program cannot.
  void check_rank_ratio() {
    const Found found = find(vssm, "SSM_RANK_RATIO");
    if (!found) return;
    const Json ratio = value(found), &whole = config_["ssm_ratio"];
    if (!ratio.is_number() || !whole.is_number() ||
        (ratio.get<double>() > 0 && ratio.get<double>() < whole.get<double>())) {
      fail_input("{}: a scan narrower than SSM_RATIO cannot be expressed here", found.place());
    }
    changes.push_back({found.place(), json_text(ratio), "(removed)", true,
                       "the scan is as wide as SSM_RATIO says, as it always is here"});
  }

  void set_preprocess() {
    const Found interpolation = find(data, "INTERPOLATION"), crop = find(test, "CROP");
    Json preprocess = Json::object();
    const Found* from = nullptr;
    bool exact = true;
    if (interpolation && interpolation.node.IsScalar() && interpolation.node.Scalar() != "bicubic") {
      const std::string& method = interpolation.node.Scalar();
      if (method == "lanczos" || method == "hamming") {
        fail_input("{}: {} cannot be expressed here; known: bicubic, bilinear", interpolation.place(),
                   in_quotes(method));
      }
      preprocess["interpolation"] = "bilinear";  // the Python project uses bilinear for every other value
      from = &interpolation;
    }
    if (crop && crop.node.IsScalar() && value(crop) == false) {
      preprocess["resize"] = config_["imgsize"];
      preprocess["crop"] = config_["imgsize"];
      exact = false;
      from = &crop;
    }
    if (!from) return;
    set("preprocess", preprocess, from->place(), printable(spaced(value(*from))), exact,
        exact ? "how images are resized"
              : "the project squeezes the whole image into a square; here the short side is resized and the "
                "square is cut from the middle");
  }

  const std::vector<Layer>& layers_;
  Age age_;
  Json config_ = Json::object();
};

[[noreturn]] void refuse_yaml(const std::string& where, const YAML::Exception& error) {
  fail_input("{}:{}: not YAML: {}", where, error.mark.line + 1, printable(error.msg, 200));
}

void refuse_unknown(const Layer& layer) {
  const YAML::Node& block = layer.sections[vssm];
  if (!block.IsDefined() || !block.IsMap()) return;
  std::vector<std::string_view> known{"SSM_RANK_RATIO"};
  for (const Row& row : rows) {
    if (row.section != vssm) continue;
    known.push_back(row.yaml);
    if (!row.older.empty()) known.push_back(row.older);
  }
  for (const OldSwitch& row : old_switches) known.push_back(row.key);
  for (const auto& entry : block) {
    const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "a collection";
    if (std::ranges::find(known, key) != known.end()) continue;
    const std::string_view guess = nearest(key, known);
    fail_input("{}:{}: MODEL.VSSM.{}: unknown key{}; known: {}", layer.where, entry.first.Mark().line + 1,
               printable(key), guess.empty() ? "" : fmt::format(", did you mean {}?", in_quotes(guess)),
               joined(known));
  }
}

// The files named in BASE, the last one first, as it overrides the others. They must be inside `folder`.
std::vector<std::filesystem::path> bases(const std::string& where, const YAML::Node& base,
                                         const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  if (!base.IsDefined() || base.IsNull()) return files;
  const auto add = [&](const YAML::Node& node) {
    const std::string place = fmt::format("{}:{}: BASE", where, node.Mark().line + 1);
    if (!node.IsScalar()) fail_input("{}: expected the name of a file", place);
    if (node.Scalar().empty()) return;
    const std::filesystem::path named = node.Scalar();
    std::error_code error;
    const auto file =
        std::filesystem::weakly_canonical(std::filesystem::path(where).parent_path() / named, error);
    const auto inside = std::filesystem::weakly_canonical(folder.empty() ? "." : folder, error);
    const auto [end, rest] = std::ranges::mismatch(inside, file);
    if (error || named.is_absolute() || std::ranges::find(named, "..") != named.end() || end != inside.end())
      fail_input("{}: {} leaves the folder of the config; put that file beside it", place,
                 in_quotes(node.Scalar()));
    if (!std::filesystem::is_regular_file(file, error))
      fail_input("{}: {}: no such file", place, in_quotes(node.Scalar()));
    files.insert(files.begin(), std::filesystem::path(where).parent_path() / named);
  };
  if (!base.IsSequence()) add(base);
  for (const auto& node : base.IsSequence() ? base : YAML::Node()) add(node);
  return files;
}

void read_layers(std::string_view text, const std::string& where, const std::filesystem::path& folder,
                 std::vector<Layer>& layers) {
  std::istringstream guarded{std::string(text)};
  YAML::Parser parser(guarded);
  Guard guard(where);
  int documents = 0;
  while (parser.HandleNextDocument(guard)) {
    if (++documents > 1) fail_input("{}: more than one YAML document; keep one", where);
  }
  const YAML::Node root = YAML::Load(std::string(text));
  if (!root.IsMap()) fail_input("{}: expected a config of the Python project: a mapping with MODEL", where);
  const YAML::Node model_node = member(where, root, "the file", "MODEL");
  const YAML::Node type = member(where, model_node, "MODEL", "TYPE");
  if (type.IsDefined() && !(type.IsScalar() && lower_case(type.Scalar()) == "vssm")) {
    fail_input("{}:{}: MODEL.TYPE: expected vssm, got {}", where, type.Mark().line + 1,
               type.IsScalar() ? in_quotes(type.Scalar()) : "a collection");
  }
  layers.push_back({where,
                    {model_node, member(where, model_node, "MODEL", "VSSM"),
                     member(where, root, "the file", "DATA"), member(where, root, "the file", "TEST")}});
  refuse_unknown(layers.back());
  for (const std::filesystem::path& base : bases(where, member(where, root, "the file", "BASE"), folder)) {
    if (layers.size() == 16)
      fail_input("{}: BASE leads through more than 16 files; does one name itself?", where);
    const std::string bytes = read_file(base, max_migration_bytes);
    try {
      read_layers(bytes, base.string(), folder, layers);
    } catch (const YAML::Exception& error) {
      refuse_yaml(base.string(), error);
    }
  }
}

// The age that the keys of MODEL.VSSM indicate, and others that are also possible.
struct Guess {
  Age age;
  std::vector<Age> others;
};
Guess guess_age(const std::vector<Layer>& layers) {
  constexpr std::array<std::string_view, 6> of_all_ages{"PATCH_SIZE", "IN_CHANS",  "EMBED_DIM",
                                                        "DEPTHS",     "MLP_RATIO", "PATCH_NORM"};
  constexpr std::array<std::string_view, 4> of_second{"D_STATE", "DT_RANK", "SHARED_SSM", "SOFTMAX"};
  constexpr std::array<std::string_view, 2> since_second{"SSM_RATIO", "DOWNSAMPLE"};
  std::set<std::string> keys;
  for (const Layer& layer : layers) {
    if (!layer.sections[vssm].IsDefined() || !layer.sections[vssm].IsMap()) continue;
    for (const auto& entry : layer.sections[vssm]) keys.insert(entry.first.Scalar());
  }
  const auto among = [&](const auto& names) {
    return static_cast<size_t>(
        std::ranges::count_if(names, [&](auto name) { return keys.contains(std::string(name)); }));
  };
  const size_t all = among(of_all_ages), only_second = among(of_second), later = among(since_second);
  if (all + only_second + later < keys.size()) return {third, {}};
  if (only_second > 0) return {second, {}};
  if (later > 0) return {third, {second}};
  if (all == of_all_ages.size()) return {first, {}};  // has every key: a dump of the complete config
  return {first, {second, third}};
}

}  // namespace

Migration migrate_yaml(std::string_view text, const std::string& where) {
  try {
    std::vector<Layer> layers;
    read_layers(text, where, std::filesystem::path(where).parent_path(), layers);
    if (std::ranges::none_of(layers, [](const Layer& layer) { return layer.sections[model].IsDefined(); }))
      fail_input("{}: has no MODEL; is it a config of the Python project?", where);
    const Guess guess = guess_age(layers);
    Converter converter(layers, guess.age);
    Migration migration{.text = converter.text(), .changes = std::move(converter.changes)};
    parse_config(migration.text, where, converter.origins);
    for (const Age other : guess.others) {
      const std::string as_other = Converter(layers, other).text();
      if (as_other == migration.text) continue;
      migration.assumed = age_names[guess.age];
      migration.others.push_back(
          {std::string(age_names[other]),
           other == second ? "D_STATE: 16 to MODEL.VSSM" : "PATCHEMBED: v2 to MODEL.VSSM", as_other});
    }
    return migration;
  } catch (const YAML::Exception& error) {
    refuse_yaml(where, error);
  }
}

}  // namespace vmamba
