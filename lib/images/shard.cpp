#include "lib/images/shard.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

constexpr size_t most_shards = 1'000'000;

// nullopt: not set, or empty.
std::optional<size_t> variable(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  const std::optional<size_t> value = parse_number<size_t>(text);
  if (!value) fail_input("{}={}: not a number from 0", name, printable(text));
  return value;
}

struct Rank {
  const char *index, *count;
};
constexpr Rank array_rank{"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"};
constexpr Rank ranks[] = {array_rank,
                          {"RANK", "WORLD_SIZE"},
                          {"SLURM_PROCID", "SLURM_NTASKS"},
                          {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                          {"PMI_RANK", "PMI_SIZE"}};

// The first task of an array may have any number. A resubmitted part of an array has a different count than the whole.
size_t place_in_array(size_t id, size_t count) {
  const size_t first = variable("SLURM_ARRAY_TASK_MIN").value_or(0),
               last = variable("SLURM_ARRAY_TASK_MAX").value_or(first + count - 1);
  if (first > 1 || last != first + count - 1)
    fail_input(
        "--shard auto: an array of {} tasks from {} to {}, which may be a part of one: it is whole from 0 or 1 on: say "
        "which shard this is: --shard I/N",
        count, first, last);
  return id - std::min(first, id + count);
}

std::optional<Shard> shard_of(const Rank& rank) {
  const std::optional<size_t> index = variable(rank.index), count = variable(rank.count);
  if (!index && !count) return std::nullopt;
  if (!index || !count)
    fail_input("--shard auto: {} is set and {} is not: give --shard I/N", index ? rank.index : rank.count,
               index ? rank.count : rank.index);
  if (*count == 0 || *count > most_shards)
    fail_input("{}={}: wanted 1 to {}", rank.count, *count, most_shards);
  const Shard shard{rank.index == array_rank.index ? place_in_array(*index, *count) : *index, *count};
  if (shard.index >= shard.count)
    fail_input("--shard auto: {}={} is not below {}={}", rank.index, *index, rank.count, *count);
  return shard;
}

// Variables with a count of 1 are ignored if others are set: each task of an array is the only one of its srun.
Shard automatic_shard() {
  std::optional<Shard> found;
  const Rank* by = nullptr;
  for (const Rank& rank : ranks) {
    const std::optional<Shard> shard = shard_of(rank);
    if (!shard || (found && shard->is_all())) continue;
    if (found && !found->is_all() && *found != *shard)
      fail_input("--shard auto: {} and {} say {}, {} and {} say {}: say which it is: --shard I/N", by->index,
                 by->count, to_string(*found), rank.index, rank.count, to_string(*shard));
    if (found && !found->is_all()) continue;
    found = shard;
    by = &rank;
  }
  if (!found)
    fail_input(
        "--shard auto: none of SLURM_ARRAY_TASK_ID, RANK, SLURM_PROCID, OMPI_COMM_WORLD_RANK and PMI_RANK is set: start "
        "it by srun, torchrun or mpirun, or give --shard I/N");
  return *found;
}

}  // namespace

std::string to_string(const Shard& shard) {
  return fmt::format("{}/{}", shard.index, shard.count);
}

Shard parse_shard(const std::string& text) {
  if (text == "auto") return automatic_shard();
  const size_t slash = text.find('/');
  const auto index = parse_decimal<size_t>(std::string_view(text).substr(0, slash));
  const auto count =
      slash == text.npos ? std::nullopt : parse_decimal<size_t>(std::string_view(text).substr(slash + 1));
  if (!index || !count || *count > most_shards || *index >= *count)
    fail_input("--shard {}: wanted auto, or I/N with I from 0 to N - 1, without leading zeros",
               printable(text));
  return {*index, *count};
}

int local_rank() {
  for (const char* name : {"LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"})
    if (const std::optional<size_t> rank = variable(name)) {
      if (*rank > INT32_MAX) fail_input("{}={}: no number of a process", name, *rank);
      return static_cast<int>(*rank);
    }
  return 0;
}

}  // namespace vmamba
