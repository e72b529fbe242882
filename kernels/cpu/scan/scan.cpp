// Selects the scan backend.
#include "kernels/cpu/scan/scan.h"

namespace vmamba::cpu {

using Scan = void(const ScanArgs& args, ScratchMemory& memory, int threads);
// The recurrence step by step.
Scan scan_torch;
// Chunked: each chunk from h = 0 in parallel, then the initial states of the chunks, then the outputs.
Scan scan_mamba;
// Sequences in parallel over channels; directions are summed into y as they are computed.
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
