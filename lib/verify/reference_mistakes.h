// Recognises common mistakes in tensors dumped for --reference by undoing them: wrong layout, softmax instead of logits,
// rows in another order, an input that differs from the one the model received.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "lib/verify/check_result.h"
#include "lib/verify/tap_store.h"

namespace vmamba {

struct ReferenceMistakes {
  std::vector<std::string> causes;  // sentences
  bool explain_all = false;         // no other difference is left
  std::optional<TapValues> mended;  // a's taps with the layouts corrected
};
// `differing`: result of comparing the reference's taps with b's run on `input`.
ReferenceMistakes reference_mistakes(const TapValues& a, const std::vector<Diff>& differing,
                                     const HostTensor& logits_b, const HostTensor& input, Runner& b,
                                     const CompareOptions& options);

// bfloat16 or float16 if every value of every tap is representable in it; nullopt otherwise.
std::optional<DType> stored_in_16_bits(const TapValues& taps);

}  // namespace vmamba
