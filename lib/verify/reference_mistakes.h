// What goes wrong when somebody saves a model's tensors for --reference, recognised by undoing it: the tensors
// then agree. Layouts, softmax, the order of rows, an input that is not the one the model was given.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "lib/verify/check_result.h"
#include "lib/verify/tap_store.h"

namespace vmamba {

struct ReferenceMistakes {
  std::vector<std::string> causes;  // sentences
  bool explain_all = false;         // nothing else differs
  std::optional<TapValues> mended;  // a's taps, those that were laid out otherwise as they should be
};
// `differing`: the comparison of the reference's taps with b's run on `input`.
ReferenceMistakes reference_mistakes(const TapValues& a, const std::vector<Diff>& differing,
                                     const HostTensor& logits_b, const HostTensor& input, Runner& b,
                                     const CompareOptions& options);

// bfloat16 or float16 if every value of every tap is such a number: it was rounded to that; else none.
std::optional<DType> stored_in_16_bits(const TapValues& taps);

}  // namespace vmamba
