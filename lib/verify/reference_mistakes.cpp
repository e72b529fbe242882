#include "lib/verify/reference_mistakes.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "kernels/error.h"
#include "kernels/half.h"

namespace vmamba {
namespace {

bool agree(const HostTensor& a, const HostTensor& b, const CompareOptions& options) {
  return a.dims == b.dims && compare("", a.dims, a.values, b.values, options).within();
}

// --- Layouts of a feature map that should be (B, H, W, C).

struct Layout {
  const char* name;
  std::vector<int64_t> dims, strides;  // dims as stored in a; strides of (b, h, w, c)
};
std::vector<Layout> layouts(int64_t B, int64_t H, int64_t W, int64_t C) {
  return {{"(B, C, H, W)", {B, C, H, W}, {C * H * W, W, 1, H * W}},
          {"(B, W, H, C)", {B, W, H, C}, {W * H * C, C, H * C, 1}},
          {"(B, C, W, H)", {B, C, W, H}, {C * W * H, 1, H, W * H}},
          {"(B, H*W, C)", {B, H * W, C}, {H * W * C, W * C, C, 1}},
          {"(B, C, H*W)", {B, C, H * W}, {C * H * W, W, 1, H * W}}};
}

// The values lie as in (B, H, W, C): one pixel, or one channel of them.
bool is_in_order(const Layout& layout, int64_t H, int64_t W, int64_t C) {
  return layout.dims.size() == 4 && (H == 1 || layout.strides[1] == W * C) &&
         (W == 1 || layout.strides[2] == C) && (C == 1 || layout.strides[3] == 1);
}

// Tries every layout on the taps of the reference that differ.
class LayoutTaps : public Taps {
 public:
  LayoutTaps(Kernels& kernels, const TapValues& a, std::set<std::string, std::less<>> differing,
             const CompareOptions& options)
      : transfer_(kernels), a_(a), differing_(std::move(differing)), options_(options) {}
  bool wants(std::string_view name) override { return differing_.contains(name); }
  void at(std::string_view name, const View& value) override {
    const HostTensor* a = a_.find(name);
    if (!differing_.contains(name) || !a || value.rank != 4 || a->elements() != value.elements()) return;
    const HostTensor b = transfer_.download(value);
    const int64_t B = b.dims[0], H = b.dims[1], W = b.dims[2], C = b.dims[3];
    for (const Layout& layout : layouts(B, H, W, C)) {
      if (a->dims != layout.dims || is_in_order(layout, H, W, C)) continue;
      HostTensor moved{b.dims, {}};
      moved.values.reserve(b.values.size());
      for (int64_t i = 0; i < B; ++i)
        for (int64_t y = 0; y < H; ++y)
          for (int64_t x = 0; x < W; ++x)
            for (int64_t c = 0; c < C; ++c)
              moved.values.push_back(a->values[i * layout.strides[0] + y * layout.strides[1] +
                                               x * layout.strides[2] + c * layout.strides[3]]);
      if (!agree(moved, b, options_)) continue;
      found[layout.name].emplace_back(name);
      moved_taps.emplace_back(name, std::move(moved));
      return;
    }
  }

  std::map<std::string, std::vector<std::string>> found;  // layout → taps
  std::vector<std::pair<std::string, HostTensor>> moved_taps;

 private:
  Transfer transfer_;
  const TapValues& a_;
  std::set<std::string, std::less<>> differing_;
  CompareOptions options_;
};

// --- Logits.

// Rows that hold softmax or log-softmax.
HostTensor softmax(const HostTensor& logits, bool logarithm) {
  HostTensor result = logits;
  const int64_t classes = logits.dims.back();
  for (int64_t row = 0; row < logits.elements() / classes; ++row) {
    float* values = result.values.data() + row * classes;
    const double largest = *std::max_element(values, values + classes);
    double sum = 0;
    for (int64_t i = 0; i < classes; ++i) sum += std::exp(values[i] - largest);
    for (int64_t i = 0; i < classes; ++i) {
      const double log = values[i] - largest - std::log(sum);
      values[i] = static_cast<float>(logarithm ? log : std::exp(log));
    }
  }
  return result;
}

// Matches each row of a with the nearest unused row of b.
std::vector<int64_t> nearest_rows(const HostTensor& a, const HostTensor& b) {
  const int64_t rows = a.dims[0], width = a.elements() / rows;
  std::vector<int64_t> order;
  std::vector<bool> taken(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) {
    int64_t best = 0;
    double best_distance = HUGE_VAL;
    for (int64_t j = 0; j < rows; ++j) {
      double distance = 0;
      for (int64_t c = 0; c < width; ++c)
        distance = std::max<double>(distance, std::abs(a.values[i * width + c] - b.values[j * width + c]));
      if (!taken[j] && distance <= best_distance) best = j, best_distance = distance;
    }
    taken[best] = true;
    order.push_back(best);
  }
  return order;
}

std::string explained_logits(const HostTensor& a, const HostTensor& b, const CompareOptions& options) {
  if (a.dims != b.dims || b.dims.size() != 2 || b.elements() == 0) return {};
  const struct {
    const char* what;
    HostTensor b;
  } candidates[] = {{"", b},
                    {"probabilities, the softmax of b's logits", softmax(b, false)},
                    {"the logarithms of probabilities, log_softmax of b's logits", softmax(b, true)}};
  for (const auto& candidate : candidates) {
    const std::string what =
        *candidate.what ? fmt::format("a's logits are {}: save them before the softmax", candidate.what) : "";
    if (!what.empty() && agree(a, candidate.b, options)) return what;
    if (b.dims[0] < 2) continue;
    const std::vector<int64_t> order = nearest_rows(a, candidate.b);
    HostTensor moved{b.dims, {}};
    const int64_t width = b.dims[1];
    for (const int64_t row : order)
      moved.values.insert(moved.values.end(), candidate.b.values.begin() + row * width,
                          candidate.b.values.begin() + (row + 1) * width);
    if (!agree(a, moved, options)) continue;
    const size_t shown = std::min<size_t>(order.size(), 8);
    return fmt::format(
        "a's rows are in another order than its input: its logits 0, 1, … are of images {}{}{}",
        fmt::join(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
        shown < order.size() ? ", …" : "", what.empty() ? "" : "; and " + what);
  }
  return {};
}

// --- The saved input is not the one that a's model received.

std::string explained_input(const HostTensor& all_logits_a, const HostTensor& all_input, Runner& b,
                            const CompareOptions& options) {
  if (all_input.dims[1] != 3 || all_logits_a.dims.empty() || all_logits_a.dims[0] != all_input.dims[0])
    return {};
  const auto first_two = [](const HostTensor& all) {  // two images suffice, and about ten runs follow
    HostTensor first = all;
    first.dims[0] = std::min<int64_t>(all.dims[0], 2);
    first.values.resize(all.values.size() / all.dims[0] * first.dims[0]);
    return first;
  };
  const HostTensor logits_a = first_two(all_logits_a), input = first_two(all_input);
  const PreprocessConfig& p = b.config().preprocess;
  // value → slope · value + offset per channel, read from the same channel or with red and blue swapped.
  using Change = float (*)(float value, float mean, float std);
  const Change same = [](float v, float, float) { return v; };
  const Change normalise = [](float v, float mean, float std) { return (v - mean) / std; };
  const Change normalise_255 = [](float v, float mean, float std) { return (v / 255 - mean) / std; };
  const Change undo = [](float v, float mean, float std) { return v * std + mean; };
  const Change undo_255 = [](float v, float mean, float std) { return (v * std + mean) * 255; };
  const struct {
    const char* what;
    Change before, after;  // without and with red and blue swapped
    bool exchange;
  } candidates[] = {
      {"a's input was saved blue, green, red; its model ran on red, green, blue", same, same, true},
      {"a's input was saved red, green, blue; its model ran on blue, green, red", undo, normalise, true},
      {"a's input was saved before it was normalised: its values are 0 to 1", same, normalise, false},
      {"a's input was saved before it was normalised: its values are 0 to 255", same, normalise_255, false},
      {"a's input was saved before it was normalised (0 to 1), blue, green, red", same, normalise, true},
      {"a's input was saved before it was normalised (0 to 255), blue, green, red", same, normalise_255,
       true},
      {"a's model ran on an input that is not normalised, of 0 to 1", undo, same, false},
      {"a's model ran on an input that is not normalised, of 0 to 255", undo_255, same, false},
      {"a's model ran on an input that is not normalised, of 0 to 1, blue, green, red", undo, same, true},
      {"a's model ran on an input that is not normalised, of 0 to 255, blue, green, red", undo_255, same,
       true},
  };
  const int64_t pixels = input.dims[2] * input.dims[3];
  for (const auto& candidate : candidates) {
    HostTensor changed = input;
    for (int64_t i = 0; i < input.elements(); ++i) {
      const int64_t to = i / pixels % 3, from = candidate.exchange ? 2 - to : to;
      const float value = input.values[i + (from - to) * pixels];
      changed.values[i] =
          candidate.after(candidate.before(value, p.mean[from], p.std[from]), p.mean[to], p.std[to]);
    }
    if (agree(logits_a, b.run(changed), options))
      return fmt::format("{}: with that undone the logits agree", candidate.what);
  }
  return {};
}

}  // namespace

ReferenceMistakes reference_mistakes(const TapValues& a, const std::vector<Diff>& differing,
                                     const HostTensor& logits_b, const HostTensor& input, Runner& b,
                                     const CompareOptions& options) {
  ReferenceMistakes mistakes;
  std::set<std::string, std::less<>> left;
  for (const Diff& diff : differing)
    if (!diff.within()) left.insert(diff.name);
  const bool input_is_a = !left.contains("input");
  const bool logits_differ = left.erase("logits without taps") + left.erase("logits") > 0;
  const size_t maps = left.size();
  if (maps > 0) {
    LayoutTaps taps(b.kernels(), a, left, options);
    b.run(input, &taps);
    for (const auto& [layout, names] : taps.found) {
      mistakes.causes.push_back(fmt::format(
          "a's taps are laid out {}: permuted to (B, H, W, C) {} of the {} that differ agree, the first is {}",
          layout, names.size(), maps, names[0]));
      for (const std::string& name : names) left.erase(name);
    }
    if (!taps.found.empty()) mistakes.mended = a;
    for (auto& [name, value] : taps.moved_taps) mistakes.mended->add(name, std::move(value));
  }
  bool logits_explained = !logits_differ;
  if (const HostTensor* logits_a = a.find("logits"); logits_a && logits_differ) {
    std::string cause = explained_logits(*logits_a, logits_b, options);
    if (cause.empty() && input_is_a) {
      cause = explained_input(*logits_a, input, b, options);
      if (!cause.empty()) left.clear();  // these differences follow from it
    }
    logits_explained = !cause.empty();
    if (logits_explained) mistakes.causes.push_back(std::move(cause));
  }
  mistakes.explain_all = left.empty() && logits_explained && !mistakes.causes.empty();
  return mistakes;
}

std::optional<DType> stored_in_16_bits(const TapValues& taps) {
  // 0 and what is not finite are numbers of every dtype.
  const bool tells = std::any_of(taps.all().begin(), taps.all().end(), [](const auto& tap) {
    return std::any_of(tap.second.values.begin(), tap.second.values.end(),
                       [](float x) { return std::isfinite(x) && x != 0; });
  });
  for (const DType dtype :
       {DType::bfloat16, DType::float16}) {  // in this order: most bfloat16 values are also float16 values
    const bool all = std::all_of(taps.all().begin(), taps.all().end(), [&](const auto& tap) {
      return std::all_of(tap.second.values.begin(), tap.second.values.end(),
                         [&](float x) { return std::isnan(x) || round_to(dtype, x) == x; });
    });
    if (all && tells) return dtype;
  }
  return {};
}

}  // namespace vmamba
