// A shard: the part of an input that one of several independent processes handles.
#pragma once
#include <cstddef>
#include <string>

namespace vmamba {

// Shard `index` of `count`, from 0: every count-th file and every count-th archive of the input. For any count, every input
// is in exactly one shard.
struct Shard {
  size_t index = 0, count = 1;

  bool has(size_t place) const { return place % count == index; }
  bool is_all() const { return count == 1; }
  bool operator==(const Shard&) const = default;
};
std::string to_string(const Shard& shard);  // "3/8"

// "I/N", or "auto": from the variables that schedulers and launchers set: Slurm's arrays, torchrun, srun, Open MPI and
// PMI. InputError if none is set, or if they contradict each other.
Shard parse_shard(const std::string& text);

// This process's number among those on its machine, by LOCAL_RANK, SLURM_LOCALID, OMPI_COMM_WORLD_LOCAL_RANK or
// MPI_LOCALRANKID; 0 if none is set.
int local_rank();

}  // namespace vmamba
