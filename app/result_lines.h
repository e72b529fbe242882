// Results files: JSON lines that a later run resumes from and that shards are merged from. The first line holds everything
// the answers depend on.
#pragma once
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "app/classifier.h"
#include "lib/images/image_source.h"
#include "lib/images/shard.h"
#include "lib/support/files.h"

namespace vmamba {

// `subject`: the first key, of the command ("eval") or what it reads. Contains the whole config, so that a mismatch can name
// the differing key, and the program that starts the file, which may be another version.
Json result_header(Json subject, const Classifier& classifier);

// The first key in which two headers differ, with both values: "dtype float32 and float16"; empty if they agree. The program
// that wrote them may differ, and with `of_shards` the shard too.
std::string header_difference(const Json& a, const Json& b, bool of_shards);

// The files that are to be merged, by their headers.
struct ShardFiles {
  struct File {
    std::string path;
    Json header;
    Shard shard;
  };
  std::vector<File> files;

  // InputError: not a file that `command` wrote for a shard, or of another run than the first.
  void add(const std::string& path, const std::string& command, Json header);
  bool is_given_before(size_t file) const;  // its shard
  // Whether each shard is given once. If not, which are missing or given twice is told on stderr.
  bool are_complete() const;
};

// Opens a file of results for reading and appending and locks it until the program ends. InputError if another run has it.
class ResultFile {
 public:
  explicit ResultFile(const std::string& path);

  const std::string& path() const { return path_; }
  int descriptor() const { return file_.number; }
  void go_on_at(size_t bytes);  // truncates the file to `bytes` and appends from there
  void append(std::string_view text) { write_all(file_.number, text, path_); }

 private:
  std::string path_;
  OutputClaim claim_;
  Descriptor file_;
};

// What lines of classify say in all.
struct ResultCounts {
  size_t images = 0, no_answer = 0;  // no_answer: of the images, those whose logits are NaN or infinite
  size_t failed = 0;                 // could not be read

  bool add(std::string_view line);  // false: it is no line of classify
  void warn_no_answer() const;
};

// The last line of classify's results: the files and archives of all shards, by number and SHA-256 of their names.
struct InputsAtEnd {
  size_t inputs = 0;
  std::string sha256;  // empty: of an older version
};
InputsAtEnd inputs_at_end(const SeenInputs& seen);

// Results of classify: lines in input order, each with its position, and a last line with the inputs. Resuming reads and
// counts all lines, one by one, and compares their names with the present input's.
class PositionedResults {
 public:
  PositionedResults(const std::string& path, const Json& header);

  bool is_done() const { return end_.has_value(); }
  std::optional<InputPosition> last() const { return last_; }
  const ResultCounts& earlier() const { return earlier_; }  // the lines that were there
  // Compares the next of these lines with the input in its place. InputError if they differ.
  void compare(const SkippedInput& input);
  // Of a file that is done: the same for the end. InputError if the inputs are not those of the file.
  void compare_end(const InputsAtEnd& now) const;
  void add(const InputPosition& position, const Json& line);
  void finish(const InputsAtEnd& inputs);
  void flush();

 private:
  struct EarlierLine {
    int number = 0;
    InputPosition position;
    Json named;
  };
  void next_earlier();
  void check_all_compared() const;

  ResultFile file_;
  std::string unwritten_;
  std::optional<InputPosition> last_;
  ResultCounts earlier_;
  std::optional<InputsAtEnd> end_;
  std::ifstream lines_;  // of the earlier run, for compare()
  EarlierLine line_;
  size_t left_ = 0;  // line_ and those behind it, which are not compared yet
};

// Writes the lines of all shards in input order, without their positions, and counts them. nullopt, with errors on stderr,
// if shards are missing, unfinished or doubled. InputError if they are not of one run.
std::optional<ResultCounts> merge_positioned(const std::vector<std::string>& paths, std::ostream& out);

}  // namespace vmamba
