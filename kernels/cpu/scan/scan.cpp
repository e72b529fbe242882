// Which file's algorithm a scan backend names.
#include "kernels/cpu/scan/scan.h"

namespace vmamba::cpu {

using Scan = void(const ScanArgs& args, ScratchMemory& memory, int threads);
// The plain recurrence, one step after the other.
Scan scan_torch;
// Sequences cut into chunks: each chunk's scan from h = 0 in parallel, then the chunks' starts, then the
// outputs.
Scan scan_mamba;
// Lanes are channels, directions merged as they are written.
Scan scan_oflex;

void run_scan(ScanBackend backend, const ScanArgs& args, ScratchMemory& memory, int threads) {
  switch (resolved(backend)) {
    case ScanBackend::torch:
      return scan_torch(args, memory, threads);
    case ScanBackend::mamba:
      return scan_mamba(args, memory, threads);
    case ScanBackend::oflex:
    case ScanBackend::automatic:
      return scan_oflex(args, memory, threads);
  }
}

}  // namespace vmamba::cpu
