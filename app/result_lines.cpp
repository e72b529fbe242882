#include "app/result_lines.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <queue>

#include "app/program.h"
#include "kernels/error.h"
#include "lib/images/archives.h"
#include "lib/support/json.h"
#include "lib/support/sha256.h"
#include "lib/support/text.h"
#include "lib/verify/provenance.h"

namespace vmamba {
namespace {
namespace fs = std::filesystem;

constexpr std::string_view position_key = "{\"at\":[";

std::string read_at(int descriptor, size_t at, size_t count, const std::string& path) {
  std::string bytes(count, '\0');
  for (size_t used = 0; used < count;) {
    const ssize_t got = pread(descriptor, bytes.data() + used, count - used, static_cast<off_t>(at + used));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw ReadError(path, errno);
    if (got == 0) fail_input("{}: became shorter while it was read", path);
    used += static_cast<size_t>(got);
  }
  return bytes;
}

// Splits a line into its position and the remaining line; nullopt if it has no position.
std::optional<std::pair<InputPosition, std::string>> split_position(std::string_view line) {
  if (!line.starts_with(position_key)) return std::nullopt;
  const size_t end = line.find("],");
  if (end == line.npos) return std::nullopt;
  const Json at = parse_shallow(line.substr(position_key.size() - 1, end + 2 - position_key.size()));
  if (!at.is_array() || at.size() != 2 || !at[0].is_number_unsigned() || !at[1].is_number_unsigned())
    return std::nullopt;
  return std::pair(InputPosition{at[0].get<size_t>(), at[1].get<size_t>()},
                   "{" + std::string(line.substr(end + 2)));
}

// The last line of a shard that is done.
std::optional<InputsAtEnd> end_in(const std::string& line) {
  if (!line.starts_with("{\"end\":")) return std::nullopt;
  const Json json = parse_shallow(line);
  const Json end = json.is_object() ? json["end"] : Json();
  if (!end.is_object() || !end.value("inputs", Json()).is_number_unsigned()) return std::nullopt;
  const Json sum = end.value("inputs_sha256", Json());
  return InputsAtEnd{end["inputs"].get<size_t>(), sum.is_string() ? sum.get<std::string>() : ""};
}

constexpr std::string_view inputs_changed = "the inputs have changed: give another results file";

}  // namespace

InputsAtEnd inputs_at_end(const SeenInputs& seen) {
  return {seen.count, seen.names ? Sha256(*seen.names).hex() : ""};
}

bool ResultCounts::add(std::string_view line) {
  const Json json = parse_shallow(line);
  if (!json.is_object() || !json.value("file", Json()).is_string()) return false;
  const Json error = json.value("error", Json()), top = json.value("top", Json());
  if (!error.is_string() && !top.is_array()) return false;
  failed += error.is_string();
  images += !error.is_string();
  no_answer += !error.is_string() && top.empty();
  return true;
}

void ResultCounts::warn_no_answer() const {
  if (no_answer > 0)
    spdlog::warn("{} of {} without an answer, as their logits are NaN or infinite", no_answer,
                 counted(images, "image"));
}

Json result_header(Json header, const Classifier& classifier) {
  const Json report = report_json(classifier);
  header["weights_sha256"] = report["weights_sha256"];
  header["config"] = Json::parse(dump_json(effective_config(classifier.config)));
  for (const char* key :
       {"config_sha256", "labels_sha256", "device", "dtype", "selective_scan_backend", "forward_core"})
    header[key] = report[key];
  header["made_by"] = made_by(classifier);
  header["made_by"]["device_name"] = report["device_name"];
  return header;
}

std::string header_difference(const Json& a, const Json& b, bool of_shards) {
  const auto compared = [&](Json header) {
    header.erase("made_by");
    if (of_shards) header.erase("shard");
    return header.flatten();
  };
  const Json flat_a = compared(a), flat_b = compared(b);
  const auto value_of = [](const Json& flat, const std::string& key) {
    return flat.contains(key) ? dump_json(flat[key]) : std::string("none");
  };
  for (const Json* keys : {&flat_b, &flat_a})
    for (const auto& [key, value] : keys->items())
      if (value_of(flat_a, key) != value_of(flat_b, key))
        return fmt::format("{} {}, this run has {}", key.substr(1), printable(value_of(flat_a, key), 200),
                           printable(value_of(flat_b, key), 200));
  return {};
}

void ShardFiles::add(const std::string& path, const std::string& command, Json header) {
  if (!header.is_object() || !header.contains(command))
    fail_input("{}:1: not a file that {} --results wrote", path, command);
  const Json text = header.value("shard", Json());
  if (!text.is_string() || text == "auto")
    fail_input("{}: not of a shard: it was made without --shard", path);
  if (!header.value("config", Json()).is_object() || !header.value("made_by", Json()).is_object())
    fail_input("{}:1: not a file that {} --results wrote", path, command);
  files.push_back({path, std::move(header), parse_shard(text.get<std::string>())});
  const File &first = files[0], &last = files.back();
  const std::string difference = header_difference(first.header, last.header, true);
  if (!difference.empty() || first.shard.count != last.shard.count)
    fail_input("{} and {} are not of one run: {}", first.path, path,
               difference.empty() ? to_string(first.shard) + " and " + to_string(last.shard) : difference);
}

bool ShardFiles::is_given_before(size_t file) const {
  return std::any_of(files.begin(), files.begin() + static_cast<ptrdiff_t>(file),
                     [&](const File& other) { return other.shard == files[file].shard; });
}

bool ShardFiles::are_complete() const {
  bool complete = true;
  std::vector<const File*> by_index(files.at(0).shard.count);
  for (const File& file : files) {
    const File*& place = by_index[file.shard.index];
    if (place) {
      spdlog::error("shard {}: given twice: {} and {}", to_string(file.shard), place->path, file.path);
      complete = false;
    }
    place = &file;
  }
  for (size_t i = 0; i < by_index.size(); ++i)
    if (!by_index[i]) {
      spdlog::error("shard {}/{}: missing: no file of it is given", i, by_index.size());
      complete = false;
    }
  return complete;
}

ResultFile::ResultFile(const std::string& path)
    : path_(path),
      claim_(path_),
      file_(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666)) {
  struct stat status {};
  if (file_.number < 0 || fstat(file_.number, &status) != 0)
    fail_input("{}: cannot be written: {}", path_, std::strerror(errno));
  if (!S_ISREG(status.st_mode))
    fail_input("{}: is no regular file, which alone a later run can go on from", path_);
  // Held until the program ends; otherwise lines of two runs would mix.
  if (flock(file_.number, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      fail_input("{}: another run is writing to it: wait for its end, or give another file", path_);
    spdlog::warn("{}: cannot be locked ({}): no second run may write to it", path_, std::strerror(errno));
  }
}

void ResultFile::go_on_at(size_t bytes) {
  if (ftruncate(file_.number, static_cast<off_t>(bytes)) != 0 || lseek(file_.number, 0, SEEK_END) < 0)
    fail_machine("{}: {}", path_, std::strerror(errno));
}

PositionedResults::PositionedResults(const std::string& path, const Json& header) : file_(path) {
  constexpr size_t block = size_t{1} << 16, longest_line = size_t{64} << 20;
  struct stat status {};
  if (fstat(file_.descriptor(), &status) != 0) throw ReadError(path, errno);
  const auto size = static_cast<size_t>(status.st_size);
  std::string first;
  while (first.find('\n') == first.npos && first.size() < std::min(size, longest_line))
    first += read_at(file_.descriptor(), first.size(), std::min(block, size - first.size()), path);
  const size_t first_end = first.find('\n');
  if (first_end == first.npos) {  // nothing, or killed in its first line
    constexpr std::string_view begins = "{\"classify\":";
    if (!first.starts_with(begins) && !begins.starts_with(first))
      fail_input("{}: not a file that classify --results wrote: give another", path);
    file_.go_on_at(0);
    file_.append(dump_json(header) + "\n");
    return;
  }
  const Json was = parse_shallow(first.substr(0, first_end));
  if (!was.is_object() || !was.contains("classify"))
    fail_input("{}: not a file that classify --results wrote: give another", path);
  if (const std::string difference = header_difference(was, header, false); !difference.empty())
    fail_input("{}: was made with {}: remove it or give another file", path, difference);
  std::string text = std::move(first);
  size_t at = 0, begin = first_end + 1;  // of the text in the file, of the next line in the text
  for (size_t number = 2;;) {
    const size_t end = text.find('\n', begin);
    if (end == text.npos) {
      at += begin;
      text.erase(0, std::exchange(begin, 0));
      if (at + text.size() == size) break;  // an incomplete last line is dropped
      if (text.size() > longest_line) fail_input("{}: a line of more than {} bytes", path, longest_line);
      text += read_at(file_.descriptor(), at + text.size(), std::min(block, size - at - text.size()), path);
      continue;
    }
    const std::string line = text.substr(begin, end - begin);
    const auto positioned = split_position(line);
    const bool good = !end_ && (positioned ? earlier_.add(positioned->second) && !(positioned->first <= last_)
                                           : end_in(line).has_value());
    if (!good) fail_input("{}:{}: not a line that classify wrote there: give another file", path, number);
    if (positioned) {
      last_ = positioned->first;
      ++left_;
    } else {
      end_ = end_in(line);
    }
    begin = end + 1;
    ++number;
  }
  file_.go_on_at(at);
  if (left_ == 0) return;
  lines_.open(path, std::ios::binary);
  std::string header_line;
  std::getline(lines_, header_line);
  line_.number = 1;
  next_earlier();
}

void PositionedResults::next_earlier() {
  std::string text;
  std::getline(lines_, text);
  auto positioned = split_position(text);
  if (!positioned) throw ReadError(file_.path(), errno);
  line_ = {line_.number + 1, positioned->first, parse_shallow(positioned->second)};
}

void PositionedResults::compare(const SkippedInput& input) {
  const Json name = named("file", input.name);
  const auto is_here = [&] {
    if (!input.is_archive)
      return line_.position == input.position &&
             key_of_named(line_.named, "file") == key_of_named(name, "file");
    const std::string archive = name["file"], file = line_.named["file"];
    return line_.position.input == input.position.input &&
           (file == archive || file.starts_with(member_name(archive, "")));
  };
  // Of an archive there may be no line, and there may be many.
  while (left_ > 0 && (!input.is_archive || line_.position.input <= input.position.input)) {
    if (!is_here())
      fail_input("{}:{}: has {} as input {}, this run has {} as input {}: {}", file_.path(), line_.number,
                 in_quotes(line_.named["file"].get<std::string>()), line_.position.input,
                 in_quotes(input.name), input.position.input, inputs_changed);
    if (--left_ > 0) next_earlier();
    if (!input.is_archive) return;
  }
}

void PositionedResults::check_all_compared() const {
  if (left_ > 0)
    fail_input("{}:{}: has {} as input {}, which this run does not have: {}", file_.path(), line_.number,
               in_quotes(line_.named["file"].get<std::string>()), line_.position.input, inputs_changed);
}

void PositionedResults::compare_end(const InputsAtEnd& now) const {
  check_all_compared();
  if (now.inputs != end_->inputs)
    fail_input("{}: is done with {}, this run has {}: {}", file_.path(), counted(end_->inputs, "input"),
               now.inputs, inputs_changed);
  if (!end_->sha256.empty() && now.sha256 != end_->sha256)
    fail_input("{}: inputs_sha256 {}, this run has {}: {}", file_.path(), end_->sha256, now.sha256,
               inputs_changed);
}

void PositionedResults::add(const InputPosition& position, const Json& line) {
  check_all_compared();
  unwritten_ +=
      fmt::format("{}{},{}],{}\n", position_key, position.input, position.member, dump_json(line).substr(1));
}

void PositionedResults::finish(const InputsAtEnd& inputs) {
  check_all_compared();
  unwritten_ +=
      fmt::format("{{\"end\":{{\"inputs\":{},\"inputs_sha256\":\"{}\"}}}}\n", inputs.inputs, inputs.sha256);
  flush();
}

void PositionedResults::flush() {
  file_.append(std::exchange(unwritten_, {}));
}

namespace {

// One shard's file, line by line.
struct ShardLines {
  std::string path;
  std::ifstream file;
  InputPosition position;
  std::string line;
  std::optional<InputsAtEnd> end;

  bool next(ResultCounts& counts) {  // false at its end
    std::string text;
    if (!std::getline(file, text)) throw ReadError(path, errno);
    if (end_in(text)) return false;
    auto positioned = split_position(text);
    if (!positioned || !counts.add(positioned->second))
      fail_input("{}: not a line that classify --results wrote: {}", path, printable(text));
    if (!line.empty() && positioned->first <= position)
      fail_input("{}: its lines are not in input order", path);
    position = positioned->first;
    line = std::move(positioned->second);
    return true;
  }
};

// nullopt: the shard is not done.
std::optional<InputsAtEnd> end_of(const std::string& path) {
  constexpr std::streamoff longest = 256;
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file.tellg();
  file.seekg(std::max<std::streamoff>(size - longest, 0));
  const std::string tail(std::istreambuf_iterator<char>(file), {});
  if (!tail.ends_with('\n')) return std::nullopt;
  const size_t line = tail.rfind('\n', tail.size() - 2);
  return line == tail.npos ? std::nullopt : end_in(tail.substr(line + 1));
}

}  // namespace

std::optional<ResultCounts> merge_positioned(const std::vector<std::string>& paths, std::ostream& out) {
  std::vector<std::unique_ptr<ShardLines>> shards;
  ShardFiles files;
  for (const std::string& path : paths) {
    auto lines = std::make_unique<ShardLines>();
    lines->path = path;
    lines->file.open(path, std::ios::binary);
    struct stat status {};
    if (!lines->file || stat(path.c_str(), &status) != 0) throw ReadError(path, errno);
    check_not_replaced(path, status);
    std::string text;
    std::getline(lines->file, text);
    files.add(path, "classify", parse_shallow(text));
    shards.push_back(std::move(lines));
  }
  if (!files.are_complete()) return std::nullopt;
  bool finished = true;
  for (size_t i = 0; i < shards.size(); ++i)
    if (!(shards[i]->end = end_of(paths[i]))) {
      spdlog::error("shard {}: {} is not finished: run it again", to_string(files.files[i].shard), paths[i]);
      finished = false;
    }
  if (!finished) return std::nullopt;
  for (const auto& lines : shards) {
    const InputsAtEnd &first = *shards[0]->end, &end = *lines->end;
    if (end.inputs != first.inputs)
      fail_input("{} saw {} inputs, {} saw {}: the input changed between them", shards[0]->path, first.inputs,
                 lines->path, end.inputs);
    if (shards.size() > 1 && end.sha256.empty())
      fail_input(
          "{}: is of an older version, which did not note the inputs: whether they are those of the other "
          "shards cannot be told: run it again into another file",
          lines->path);
    if (end.sha256 != first.sha256)
      fail_input("{} and {} are of different inputs (inputs_sha256): run the shards again on one input",
                 shards[0]->path, lines->path);
  }
  const auto later = [](const ShardLines* a, const ShardLines* b) { return a->position > b->position; };
  std::priority_queue<ShardLines*, std::vector<ShardLines*>, decltype(later)> queue(later);
  ResultCounts counts;
  for (const auto& lines : shards)
    if (lines->next(counts)) queue.push(lines.get());
  while (!queue.empty()) {
    ShardLines* lines = queue.top();
    queue.pop();
    out << lines->line << '\n';
    if (lines->next(counts)) queue.push(lines);
  }
  return counts;
}

}  // namespace vmamba
