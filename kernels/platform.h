// What each operating system has calls of its own for. Linux is built and tested; the branch for macOS was never
// compiled there (docs/packages.md).
#pragma once
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace vmamba {

// The file that the code at `address` was loaded from: the program, or a shared library.
std::filesystem::path file_of_code(const void* address);
// Starts this program anew, with `argv` and the environment as it is now. Returns where that cannot be done.
void restart_program(char** argv);

int allowed_processors();      // those that this process may run on
std::string processor_name();  // "CPU" if it is not known
size_t cache_bytes();          // of the last level, at least 1 MiB
size_t available_memory();     // bytes that the machine has left
void want_huge_pages(void* memory, size_t bytes);

// Opens descriptors 0 to 2 if they are closed; otherwise a file that is opened later could get one of these numbers, and
// what is logged would be written into it.
void hold_standard_descriptors();
// Calls `clean_up` before a signal ends the program. Ignored signals (nohup) stay ignored. A closed pipe ends the program
// only if it is stdout; a closed stderr only loses the log. Both functions must be async-signal-safe.
void before_ending_signals(void (*clean_up)() noexcept);
// Calls `end`, which does not return, with the address whose access failed.
void on_bus_errors(void (*end)(const void* address) noexcept);

}  // namespace vmamba
