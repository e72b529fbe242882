// The command line: parses it, runs one command, and turns every error into one line and an exit code:
// 0 done, 1 the answer is no, 2 wrong usage or input, 3 the device or the machine failed.
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <iostream>
#include <new>

#include "app/commands.h"
#include "app/complete.h"
#include "app/help.h"
#include "app/program.h"
#include "app/progress.h"
#include "build_info.h"
#include "kernels/cgroup.h"
#include "kernels/devices.h"
#include "kernels/error.h"
#include "kernels/platform.h"
#include "lib/support/files.h"
#include "lib/support/mapped_file.h"
#include "lib/support/text.h"

// One line per command, in the order of --help; add_NAME is defined in app/NAME.cpp.
// clang-format off
#define VMAMBA_COMMANDS(command) \
  command(classify) \
  command(eval) \
  command(features) \
  command(nearest) \
  command(look) \
  command(check_equal) \
  command(bench) \
  command(info) \
  command(devices) \
  command(migrate_config) \
  command(init_weights) \
  command(convert_weights) \
  command(help) \
  command(version)
// clang-format on

namespace vmamba {

#define VMAMBA_DECLARE(name) Command add_##name(CLI::App& app);
VMAMBA_COMMANDS(VMAMBA_DECLARE)

namespace {

std::string version_text() {
  return fmt::format("vmamba-cli {}\ncommit: {}\nbuild: {}\nCUDA: {}\nlibraries: {}", build_version,
                     build_commit, build_kind, build_cuda, build_libraries);
}

int fail(int exit_code, const std::string& text) {
  std::fflush(stdout);
  print_stderr(fmt::format("vmamba-cli: {}\n", printable(one_line(text), std::string::npos)));
  return exit_code;
}

std::string help_command(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return fmt::format("vmamba-cli {}--help", chosen.empty() ? "" : chosen.front()->get_name() + " ");
}

// CLI11 parses "[2024]" as a list with the item 2024. Such a word is prefixed with a mark, which every option removes
// again, so that it stays a file name.
constexpr char mark = '\x01';

// The command line's words in reverse order, as CLI11 wants them.
std::vector<std::string> marked_words(int argc, char** argv) {
  std::vector<std::string> words;
  for (int i = argc - 1; i > 0; --i) {
    std::string word = argv[i];
    const size_t value = word.starts_with("--") ? word.find('=') + 1 : 0;
    if (value < word.size() && (word[value] == '[' || word[value] == mark)) word.insert(value, 1, mark);
    words.push_back(std::move(word));
  }
  return words;
}

std::string without_mark(std::string value) {
  if (value.starts_with(mark)) value.erase(0, 1);
  return value;
}

// Escapes log messages for a terminal, because they may contain names from outside.
class PrintableMessage : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& line) override {
    const std::string text = printable({message.payload.data(), message.payload.size()}, std::string::npos);
    line.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<PrintableMessage>();
  }
};

// The error for a word that no option or command takes, with the nearest known one.
std::string unexpected(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  const std::vector<std::string> words = app.remaining(true);
  const std::string word = words.empty() ? "" : without_mark(words.front());
  const bool is_option = word.starts_with("-");
  std::vector<std::string> known;
  if (is_option) {
    for (const CLI::App* scope : {&app, chosen.empty() ? &app : static_cast<const CLI::App*>(chosen.front())})
      for (const CLI::Option* option : scope->get_options()) known.push_back(option->get_name(false, false));
  } else if (chosen.empty()) {
    for (const CLI::App* command : app.get_subcommands({})) known.push_back(command->get_name());
  }
  const std::string_view meant = nearest(word, {known.begin(), known.end()});
  if (is_option && word == meant)
    return fmt::format("{}: stands before its command: write vmamba-cli {} {} …", word,
                       chosen.front()->get_name(), word);
  if (is_option && meant.empty() && !chosen.empty()) {
    const std::string name = word.substr(0, word.find('='));
    std::vector<std::string_view> commands;
    for (const CLI::App* command : app.get_subcommands({}))
      if (name == "--save-features" ? command->get_name() == "features"
                                    : command->get_option_no_throw(name) != nullptr)
        commands.push_back(command->get_name());
    if (!commands.empty())
      return fmt::format("{}: no option of {}, but of {}; see vmamba-cli {} --help", printable(name),
                         chosen.front()->get_name(), alternatives(commands), commands.front());
  }
  return fmt::format("{} {}{}; see {}",
                     is_option        ? "unknown option"
                     : chosen.empty() ? "unknown command"
                                      : "unexpected argument",
                     printable(word), meant.empty() ? "" : fmt::format(" (did you mean {}?)", meant),
                     help_command(app));
}

// What is wrong with an empty argument or option ("" or "--option="), which would be treated as absent; empty: none is.
std::string empty_value(int argc, char** argv) {
  constexpr const char* of_option = "{}: the value is empty: give one, or leave the option out";
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word.empty() && *argv[i - 1] == '-') return fmt::format(of_option, printable(argv[i - 1]));
    if (word.empty()) return "an argument is empty: leave it out";
    if (word.starts_with("--") && word.find('=') == word.size() - 1)
      return fmt::format(of_option, printable(word));
  }
  return {};
}

// oneDNN would print to stdout, which carries results only, or write its kernels into the working directory. It reads
// the variables when it is first used.
void ignore_onednn_outputs() {
  for (const std::string& what : {std::string("VERBOSE"), std::string("JIT_DUMP")})
    for (const std::string& name : {"ONEDNN_" + what, "DNNL_" + what}) {
      const char* value = std::getenv(name.c_str());
      if (!value || std::string_view(value) == "0") continue;
      spdlog::warn("{}={}: is ignored: oneDNN would {}", name, printable(value),
                   what == "VERBOSE" ? "print among the results" : "write files here");
      unsetenv(name.c_str());
    }
}

int run(int argc, char** argv) {
  const char* no_color = std::getenv("NO_COLOR");  // no-color.org: set, and not empty
  spdlog::set_default_logger(spdlog::stderr_color_mt(
      "vmamba-cli", no_color && *no_color ? spdlog::color_mode::never : spdlog::color_mode::automatic));
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<PrintableMessage>('*').set_pattern("vmamba-cli: %^%l%$: %*");
  spdlog::set_formatter(std::move(formatter));

  CLI::App app("Runs and verifies VMamba image classifiers.", "vmamba-cli");
  app.set_version_flag("--version", version_text(), "Print the version, the build, CUDA and the libraries");
  app.formatter(std::make_shared<HelpFormatter>());
  app.fallthrough();
  app.require_subcommand(0, 1);  // a file "bench" after classify is a file
  app.option_defaults()->always_capture_default(false);
  std::string log_level = "info";
  bool quiet = false;
  CLI::Option* level =
      app.add_option("--log-level", log_level,
                     "What is logged to stderr: trace, debug, info, warning, error or off")
          ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "off"}).description(""))
          ->type_name("LEVEL")
          ->capture_default_str();
  app.add_flag("-q,--quiet", quiet, "Log errors only")->excludes(level);
  bool no_progress = false;
  app.add_flag("--no-progress", no_progress, "Do not show how far a command is");

  std::vector<Command> added;
#define VMAMBA_ADD(name) added.push_back(add_##name(app));
  VMAMBA_COMMANDS(VMAMBA_ADD)

  if (argc > 1 && std::string_view(argv[1]) == "--complete") {
    std::cout << completions(app, {argv + 2, argv + argc});
    return 0;
  }
  for (const Command& command : added)
    for (CLI::Option* option : command.parser->get_options())
      if (option->get_type_size_max() > 0) option->transform(without_mark);

  if (const std::string wrong = empty_value(argc, argv); !wrong.empty()) return fail(2, wrong);
  try {
    app.parse(marked_words(argc, argv));
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ExtrasError&) {
    return fail(2, unexpected(app));
  } catch (const CLI::ArgumentMismatch& error) {
    // "--topk: At Most 1 required but received 2"
    constexpr std::string_view twice = ": At Most 1 required but received ";
    std::string text = one_line(error.what());
    if (const size_t at = text.find(twice); at != text.npos)
      text =
          fmt::format("{}: given {} times, wanted once", text.substr(0, at), text.substr(at + twice.size()));
    return fail(2, fmt::format("{}; see {}", text, help_command(app)));
  } catch (const CLI::ParseError& error) {
    return fail(2, fmt::format("{}; see {}", one_line(error.what()), help_command(app)));
  }
  progress_wanted = !no_progress;
  spdlog::set_level(spdlog::level::from_str(quiet ? "error" : log_level));
  ignore_onednn_outputs();

  for (const Command& command : added)
    if (command.parser->parsed()) return command.run();
  return fail(2, "no command given; see " + help_command(app));
}

// libgomp's threads spin while they wait for the others at the end of a parallel region: 300,000 iterations by
// default, up to 20 ms. 2,000 iterations are as fast on an idle machine; on a busy one threads that sleep at once are
// several times as fast (docs/reliability.md). libgomp reads the setting when it is loaded, so the program
// re-executes itself.
void limit_spinning(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") || std::getenv("GOMP_SPINCOUNT")) return;
  if (machine_is_busy())
    setenv("OMP_WAIT_POLICY", "PASSIVE", 1);
  else
    setenv("GOMP_SPINCOUNT", "2000", 1);
  restart_program(argv);  // where it returns, libgomp's default remains
}

// The CUDA driver creates a context in 0.13 s less with two queues than with its default of eight, and each GPU is used
// through two streams. The driver reads the variable when it is initialised.
void limit_cuda_queues() {
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "2", 0);
}

// Ends the program where exceptions cannot be thrown: writes these texts. Async-signal-safe.
[[noreturn]] void end_by_machine(std::initializer_list<std::string_view> texts) noexcept {
  remove_unfinished();
  for (const std::string_view text : texts) {
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
  }
  _exit(3);
}

// Reading mapped weights raises SIGBUS if the file was truncated or its disk fails.
void end_by_bus_error(const void* address) noexcept {
  const std::string_view file = mapped_file_at(address);
  end_by_machine({"vmamba-cli: ", file.empty() ? "a mapped file" : file,
                  ": was cut off while it was in use, or its disk failed: is it still being written?\n"});
}

constexpr std::string_view no_threads =
    "a thread could not be started: give fewer (--threads N), or more processes and memory (ulimit -u, ulimit -v, "
    "OMP_STACKSIZE)";

int fail_stdout() {
  return fail(3, "standard output could not be written: it is closed, or its disk is full");
}

}  // namespace
}  // namespace vmamba

// Takes the place of the C library's for other libraries; the return of main() does not come here. libgomp calls exit(1)
// where it cannot start threads, which would read as "different", and may do so in several threads at once.
extern "C" __attribute__((visibility("default"))) void exit(int) noexcept {
  static std::atomic_flag first;
  if (first.test_and_set())
    for (;;) pause();
  vmamba::end_by_machine(
      {"vmamba-cli: OpenMP or another library ended the program: ", vmamba::no_threads, "\n"});
}

namespace {

int unexpected_error(const std::exception& error) {
  if (std::ferror(stdout)) return vmamba::fail_stdout();  // fmt::print throws on errors
  return vmamba::fail(3, fmt::format("unexpected error, please report it: {}", error.what()));
}

int run_to_exit_code(int argc, char** argv) {
  using vmamba::fail;
  try {
    const int exit_code = vmamba::run(argc, argv);
    std::cout.flush();
    if (std::fflush(stdout) != 0 || std::ferror(stdout) || !std::cout) return vmamba::fail_stdout();
    return exit_code;
  } catch (const vmamba::InputError& error) {
    return fail(2, error.what());
  } catch (const vmamba::MachineError& error) {
    return std::ferror(stdout) ? vmamba::fail_stdout() : fail(3, error.what());
  } catch (const std::bad_alloc&) {
    return fail(3, "out of memory");
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::resource_unavailable_try_again)
      return fail(3, std::string(vmamba::no_threads));
    return unexpected_error(error);
  } catch (const std::exception& error) {
    return unexpected_error(error);
  }
}

}  // namespace

int main(int argc, char** argv) {
  vmamba::hold_standard_descriptors();
  vmamba::note_command_line(argc, argv);
  vmamba::limit_cuda_queues();
  vmamba::limit_spinning(argv);
  vmamba::before_ending_signals(vmamba::remove_unfinished);
  vmamba::on_bus_errors(vmamba::end_by_bus_error);
  const int exit_code = run_to_exit_code(argc, argv);
  if (vmamba::slow_at_exit()) {  // the system frees the memory faster
    std::cout.flush();
    std::fflush(nullptr);
    _exit(exit_code);
  }
  return exit_code;
}
