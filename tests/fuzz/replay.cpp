// Runs a fuzz target without libFuzzer: on its seeds and on random mutations of them. On a finding the input is
// written to ./fuzz-TARGET.input.
//   vmamba_fuzz TARGET [SECONDS]      mutates for about SECONDS (default 2), the same sequence every time
//   vmamba_fuzz TARGET FILE…          runs files, such as a finding of scripts/fuzz.sh
//   vmamba_fuzz --list
//   vmamba_fuzz TARGET --seeds FOLDER  writes the seeds to files, for libFuzzer
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "lib/support/files.h"
#include "tests/fuzz/targets.h"

namespace fs = std::filesystem;
using namespace vmamba::fuzz;

namespace {

constexpr size_t largest_seed = 128 << 10;
constexpr unsigned seconds_per_run = 20;

std::string current;  // the input that runs
std::string finding;  // file for it

// Writes the input; only async-signal-safe calls.
void on_crash(int signal) {
  const int file = open(finding.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || write(file, current.data(), current.size()) < 0) _exit(1);
  std::signal(signal, SIG_DFL);
  raise(signal);
}

std::vector<std::string> seeds_of(const Target& target) {
  std::vector<std::string> seeds(target.texts.begin(), target.texts.end());
  std::istringstream patterns{std::string(target.seeds)};
  for (std::string pattern; patterns >> pattern;) {
    // FOLDER/*ENDING, where FOLDER may be "models/*".
    const size_t star = pattern.rfind('/');
    const std::string last = pattern.substr(star + 1);
    const fs::path root = fs::path(VMAMBA_TEST_DATA) / pattern.substr(0, pattern.find("/*"));
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      const std::string name = entry.path().filename();
      const bool fits = last.starts_with('*') ? name.ends_with(last.substr(1)) : name == last;
      if (entry.is_regular_file() && fits && entry.file_size() <= largest_seed) files.push_back(entry.path());
    }
    std::ranges::sort(files);
    for (const fs::path& file : files) seeds.push_back(vmamba::read_file(file));
  }
  return seeds;
}

// Mutations of the seeds, the same sequence every time.
class Mutator {
 public:
  explicit Mutator(const std::vector<std::string>& seeds) : seeds_(seeds) {}
  std::string next() {
    std::string bytes = seeds_[below(seeds_.size())];
    for (size_t changes = 1 + below(8); changes > 0; --changes) change(bytes);
    return bytes;
  }

 private:
  uint64_t random() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    return state_ ^= state_ << 17;
  }
  size_t below(size_t n) { return n == 0 ? 0 : random() % n; }
  void change(std::string& bytes) {
    const size_t at = below(bytes.size()), length = std::min(bytes.size() - at, 1 + below(32));
    constexpr std::string_view odd("\x00\x01\x7f\x80\xff\"{}[],:-.\n 0123456789", 26);
    switch (below(6)) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = odd[below(odd.size())];
        break;
      case 2:
        bytes.insert(at, std::string(1 + below(4), odd[below(odd.size())]));
        break;
      case 3:
        bytes.erase(at, length);
        break;
      case 4:
        bytes.insert(below(bytes.size()), bytes.substr(at, length));
        break;
      default: {
        const std::string& other = seeds_[below(seeds_.size())];
        bytes.replace(at, length, other.substr(below(other.size()), 1 + below(64)));
      }
    }
  }

  const std::vector<std::string>& seeds_;
  uint64_t state_ = 0x9e3779b97f4a7c15;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  if (name == "--list") {
    for (const Target& target : targets()) std::printf("%s\n", std::string(target.name).c_str());
    return 0;
  }
  const auto target = std::ranges::find(targets(), name, &Target::name);
  if (target == targets().end()) {
    std::fprintf(stderr, "usage: vmamba_fuzz TARGET [SECONDS | FILE… | --seeds FOLDER], or --list\n");
    return 2;
  }
  finding = "fuzz-" + name + ".input";
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM}) std::signal(signal, on_crash);
  const auto run = [&](std::string bytes) {
    current = std::move(bytes);
    alarm(seconds_per_run);
    run_one(*target, current);
  };
  if (argc > 2 && fs::is_regular_file(argv[2])) {
    for (int i = 2; i < argc; ++i) run(vmamba::read_file(argv[i]));
    return 0;
  }
  const std::vector<std::string> seeds = seeds_of(*target);
  if (argc > 3) {
    for (size_t i = 0; i < seeds.size(); ++i)
      std::ofstream(fs::path(argv[3]) / ("seed" + std::to_string(i)), std::ios::binary) << seeds[i];
    return 0;
  }
  const double seconds = argc > 2 ? std::stod(argv[2]) : 2;
  const auto start = std::chrono::steady_clock::now();
  long runs = 0;
  for (const std::string& seed : seeds) run(seed), ++runs;
  for (Mutator mutator(seeds);
       std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds; ++runs)
    run(mutator.next());
  std::printf("%s: %ld runs from %zu seeds\n", name.c_str(), runs, seeds.size());
  return runs > static_cast<long>(seeds.size()) && !seeds.empty() ? 0 : 2;
}
