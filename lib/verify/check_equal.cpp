#include "lib/verify/check_equal.h"

#include <algorithm>
#include <set>
#include <thread>

#include "kernels/error.h"
#include "kernels/parallel.h"
#include "lib/images/image_source.h"
#include "lib/support/text.h"
#include "lib/tensors/torch_random.h"
#include "lib/verify/diagnose.h"
#include "lib/verify/reference_mistakes.h"
#include "lib/verify/tolerance.h"

namespace vmamba {
namespace {

// (B, C, H, W) → (B, H, W, C), the layout of every tap.
HostTensor nhwc(const HostTensor& nchw) {
  const int64_t B = nchw.dims[0], C = nchw.dims[1], H = nchw.dims[2], W = nchw.dims[3];
  HostTensor result{{B, H, W, C}, std::vector<float>(nchw.values.size())};
  for (int64_t b = 0; b < B; ++b)
    for (int64_t c = 0; c < C; ++c)
      for (int64_t p = 0; p < H * W; ++p)
        result.values[(b * H * W + p) * C + c] = nchw.values[(b * C + c) * H * W + p];
  return result;
}

HostTensor images(const HostTensor& tensor, int64_t begin, int64_t count) {
  HostTensor part{tensor.dims, {}};
  part.dims[0] = count;
  const int64_t each = tensor.elements() / tensor.dims[0];
  part.values.assign(tensor.values.begin() + begin * each, tensor.values.begin() + (begin + count) * each);
  return part;
}

void merge_all(std::vector<Diff>& diffs, std::vector<Diff> next) {
  for (Diff& diff : next) {
    const auto same =
        std::find_if(diffs.begin(), diffs.end(), [&](const Diff& d) { return d.name == diff.name; });
    if (same == diffs.end())
      diffs.push_back(std::move(diff));
    else
      merge(*same, diff);
  }
}

// b's own values (each step computed from a's taps) in the blocks where its own error first appears.
TapValues own_values(const CheckResult& chunk, const TapValues& a, const HostTensor& input, Runner& b,
                     const CompareOptions& options) {
  std::set<std::string, std::less<>> blocks;
  if (const Diff* first = first_own(chunk)) blocks.emplace(block_of(first->name));
  for (const Diff& diff : chunk.own)
    if (!diff.identical() && !direction_of(diff.name).empty()) {
      blocks.emplace(block_of(diff.name));
      break;
    }
  TapValues values;
  TapComparison again(b.kernels(), a, options, true);
  again.observer = [&](const Diff& diff, const HostTensor&, const HostTensor& value) {
    if (blocks.contains(block_of(diff.name))) values.add(diff.name, value);
  };
  b.run(input, &again);
  return values;
}

// The images of both sides, decoded ahead, and once if the sides differ at most in the normalisation.
class ImagePairs {
 public:
  ImagePairs(const std::vector<ImageRef>& images, const PreprocessConfig& a, const PreprocessConfig& b,
             int batch_size)
      : source_a_(listed_images(images), a, batch_size, threads()) {
    if (a.resize != b.resize || a.crop != b.crop || a.interpolation != b.interpolation)
      source_b_.emplace(listed_images(images), b, batch_size, threads());
  }
  void next() {
    source_a_.next_whole(batch_a_);
    if (source_b_) source_b_->next_whole(batch_b_);
  }
  const ImageBatch& a() const { return batch_a_; }
  const ImageBatch& b() const { return source_b_ ? batch_b_ : batch_a_; }

 private:
  static int threads() { return static_cast<int>(std::max(std::thread::hardware_concurrency() / 2, 1u)); }

  ImageSource source_a_;
  std::optional<ImageSource> source_b_;
  ImageBatch batch_a_, batch_b_;
};

HostTensor run_batch(Runner& runner, const ImageBatch& batch) {
  for (const ImageBatch::Item& item : batch.items)
    if (!item.error.empty()) fail_input("{}", item.error);
  const int64_t crop = runner.config().preprocess.crop;
  return runner.run_pixels(batch.pixels.data(), batch.images, crop, crop);
}

// Judges one b over all chunks. The probe is created on first use.
struct Judge {
  const Side& side;
  Runner& run;
  std::vector<Arithmetic> arithmetic;  // of both sides
  std::unique_ptr<ErrorProbe> probe;
};

// Compares one chunk of images: runs b against the stored taps of a. `side_a` is null if a is a file. Returns b's logits
// without taps, empty if there are none of a.
HostTensor compare_chunk(const Side* side_a, const TapValues& a, const HostTensor* unobserved_a, Judge& judge,
                         const CheckInput& input, const CompareOptions& options, CheckResult& result) {
  const Side& side_b = judge.side;
  Runner& b = judge.run;
  CheckResult chunk = result;
  chunk.taps.clear();
  chunk.own.clear();
  std::vector<std::string> extra;
  HostTensor logits_b, unobserved_b;
  const auto compare_all = [&](const ErrorModels* errors) {
    CompareOptions how = options;
    how.deviations = drift_deviations;
    TapComparison comparison(b.kernels(), a, how);
    comparison.errors = errors;
    logits_b = b.run(input.b, &comparison);
    chunk.taps.clear();
    CompareOptions of_input = options;
    if (result.derived) of_input.tolerance = result.input_tolerance;
    chunk.taps.push_back(compare_tensors("input", nhwc(input.a), nhwc(input.b), of_input));
    std::move(comparison.diffs.begin(), comparison.diffs.end(), std::back_inserter(chunk.taps));
    extra = std::move(comparison.extra);
    // Without an observer a device may fuse steps and replay a captured graph, as the other commands do.
    if (!unobserved_a || side_b.config.out_indices) return;  // a backbone has no logits
    if (errors)
      if (const auto model = errors->find("logits"); model != errors->end()) how.errors = &model->second;
    unobserved_b = b.run(input.b);
    chunk.taps.push_back(compare_tensors("logits without taps", *unobserved_a, unobserved_b, how));
  };
  compare_all(nullptr);

  // If a has only logits, no step can be restarted from its values.
  const bool logits_only = !side_a && a.all().size() == 1 && a.find("logits");
  if (chunk.first_differing()) {
    ReferenceMistakes mistakes;
    if (!side_a && result.causes.empty() && chunk.first_outside())
      mistakes = reference_mistakes(a, chunk.taps, logits_b, input.b, b, options);
    const TapValues& handed = mistakes.mended ? *mistakes.mended : a;
    if (input.a.dims[1] == input.b.dims[1] && !mistakes.explain_all) {
      if (!judge.probe)
        judge.probe =
            std::make_unique<ErrorProbe>(side_b.config, *side_b.weights, side_b.choice, judge.arithmetic);
      ErrorModels own = judge.probe->own(handed, input.a);
      CompareOptions how = options;
      how.deviations = own_deviations;
      const auto restart = [&] {
        TapComparison restarted(b.kernels(), handed, how, true);
        restarted.errors = &own;
        b.run(input.a, &restarted);
        chunk.own = std::move(restarted.diffs);
      };
      if (!logits_only) restart();
      // Scans are far from linear; between different weights their condition explains nothing. Their inputs are a's taps,
      // which must have b's shapes.
      std::set<std::string, std::less<>> scans;
      const bool shapes_agree = std::ranges::all_of(chunk.own, &std::string::empty, &Diff::problem);
      if (shapes_agree && (!side_a || side_a->weights == side_b.weights))
        for (const Diff& diff : chunk.own)
          if (is_scan(diff.name) && !diff.within() && !diff.nonfinite()) scans.insert(diff.name);
      if (!scans.empty()) {
        for (auto& [name, model] : judge.probe->closer(handed, input.a, scans)) own[name] = std::move(model);
        restart();
      }
      if (result.derived) {
        const ErrorModels drift = judge.probe->drift(own, input.b);
        compare_all(&drift);
      }
    }
    if (result.causes.empty()) {
      result.causes = std::move(mistakes.causes);
      const TapValues own_b =
          chunk.own.empty() ? TapValues() : own_values(chunk, handed, input.a, b, options);
      std::vector<std::string> more;
      if (!mistakes.explain_all)
        more = diagnose(chunk, {.a = side_a,
                                .b = &side_b,
                                .input = &input,
                                .taps_a = &handed,
                                .own_b = chunk.own.empty() ? nullptr : &own_b});
      std::move(more.begin(), more.end(), std::back_inserter(result.causes));
    }
  }

  std::set<std::string_view> in_b;
  for (const Diff& diff : chunk.taps) in_b.insert(diff.name);
  const auto add_once = [](std::vector<std::string>& names, const std::string& name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  };
  for (const auto& [name, value] : a.all())
    if (!in_b.contains(name)) add_once(result.only_in_a, name);
  for (const std::string& name : extra) add_once(result.only_in_b, name);

  if (const HostTensor* logits_a = a.find("logits"); logits_a && logits_a->dims == logits_b.dims) {
    const Agreement agreed = agreement(logits_b.dims.back(), logits_a->values, logits_b.values);
    result.agreement.images += agreed.images;
    result.agreement.top1 += agreed.top1;
    result.agreement.top5 += agreed.top5;
  }
  merge_all(result.taps, std::move(chunk.taps));
  merge_all(result.own, std::move(chunk.own));
  return unobserved_b;
}

void choose_tolerance(CheckResult& result, const CheckOptions& options,
                      const std::vector<RunChoice>& choices) {
  result.tolerance = {0, 0, 0};
  for (const RunChoice& choice : choices) {
    const Tolerance row = tolerance_of(choice.device.type, choice.precision);
    if (row.absolute > result.tolerance.absolute)
      result.tolerance_source =
          fmt::format("{} {}", to_string(choice.device.type), to_string(choice.precision));
    result.tolerance = looser(result.tolerance, row);
  }
  result.tolerance = overridden(result.tolerance, options.absolute, options.relative);
  result.derived = !options.absolute && !options.relative;
  result.input_tolerance = tolerance_of(DeviceType::cpu, Precision::float32);
  if (!result.derived) result.tolerance_source = "as asked";
}

// Rounding error of each value of a reference that was saved in 16 bits, and of its input if that was.
void allow_rounding(CheckResult& result, DType dtype, bool of_input) {
  result.reference_dtype = dtype;
  if (result.derived) {
    const double unit = arithmetic_of(dtype).storage;
    const auto allow = [&](Tolerance& tolerance) {
      tolerance.relative += unit;
      tolerance.relative_l2 += unit;
    };
    allow(result.tolerance);
    if (of_input) allow(result.input_tolerance);
    result.tolerance_source += fmt::format(", and the reference's own rounding to {}", to_string(dtype));
  }
  result.notes.push_back(fmt::format(
      "every value of the reference is a {0} number: it was saved in {0}{1}; a model that computed in {0} is "
      "compared with --dtype {0}",
      to_string(dtype), result.derived ? ", and its rounding is allowed for" : ""));
}

// With --equal-nan: InputError if not one value is a number on both sides.
void check_compared(const CheckResult& result, const CheckOptions& options) {
  if (options.equal_nan && std::ranges::all_of(result.taps, [](const Diff& diff) {
        return diff.name == "input" || (diff.problem.empty() && diff.finite == 0);
      }))
    fail_input("--equal-nan: nothing to compare: every value of every tap is NaN or infinite");
}

CompareOptions compare_options(const CheckResult& result, const CheckOptions& options, const Side& b) {
  return {.tolerance = result.tolerance,
          .equal_nan = options.equal_nan,
          .maps = options.maps,
          .threads = threads_to_use(b.choice.threads)};
}

}  // namespace

CheckResult check_sides(const Side& a, const Side& b, const CheckInput& input, const CheckOptions& options,
                        TruthRun* truth) {
  Runner run_a(a.config, *a.weights, a.choice), run_b(b.config, *b.weights, b.choice);
  CheckResult result;
  result.choice_a = a.given;
  result.choice_b = b.given;
  result.report_a = run_a.report();
  result.report_b = run_b.report();
  result.input = input.description;
  choose_tolerance(result, options, {a.choice, b.choice});
  const CompareOptions how = compare_options(result, options, b);
  Judge judge{b, run_b, {arithmetic_of(a.choice.precision), arithmetic_of(b.choice.precision)}, nullptr};
  if (truth) result.truth = truth->report(truth_side(a.choice), truth_side(b.choice));
  const bool read_here = input.a.values.empty();
  const PreprocessConfig &preprocess_a = a.config.preprocess, &preprocess_b = b.config.preprocess;
  if (!read_here && input.images.empty() && preprocess_a != preprocess_b)
    result.notes.push_back("the configs' preprocess differs; it is compared with --images only");
  std::optional<ImagePairs> pairs;
  if (read_here) pairs.emplace(input.images, preprocess_a, preprocess_b, options.batch_size);
  const int64_t total = read_here ? static_cast<int64_t>(input.images.size()) : input.a.dims[0];
  for (int64_t begin = 0; begin < total; begin += options.batch_size) {
    if (pairs) pairs->next();
    HostTensor logits_a, logits_b;
    if (pairs && options.min_agreement && begin > 0) {
      logits_a = run_batch(run_a, pairs->a());
      logits_b = run_batch(run_b, pairs->b());
    } else {
      const int64_t count = std::min<int64_t>(options.batch_size, total - begin);
      const CheckInput part{input.description,
                            {},
                            pairs ? normalized(pairs->a(), preprocess_a) : images(input.a, begin, count),
                            pairs ? normalized(pairs->b(), preprocess_b) : images(input.b, begin, count)};
      TapStore store(run_a.kernels());
      run_a.run(part.a, &store);
      const TapValues taps_a = store.take();
      logits_a = run_a.run(part.a);
      logits_b = compare_chunk(&a, taps_a, &logits_a, judge, part, how, result);
      if (truth)
        truth->judge({.run = &run_a, .input = &part.a}, {.run = &run_b, .input = &part.b}, *result.truth);
      if (options.min_agreement && count < total)
        result.notes.push_back(
            fmt::format("taps were compared on the first {} of {} images, labels on all", count, total));
    }
    if (options.batch_done) options.batch_done(logits_a, logits_b);
  }
  check_compared(result, options);
  if (result.causes.empty() && result.equal())
    if (const auto weights = different_weights(a, b))
      result.notes.push_back(*weights + ": nothing shows it on this input");
  return result;
}

CheckResult check_reference(const StateDict& reference, const Side& b, const CheckInput& input,
                            const CheckOptions& options, TruthRun* truth) {
  Runner run_b(b.config, *b.weights, b.choice);
  CheckResult result;
  result.reference = reference.where;
  result.choice_b = b.given;
  result.report_b = run_b.report();
  result.input = input.description;
  TapValues taps_a;
  for (const auto& [name, tensor] : reference.tensors)
    if (name != "input") taps_a.add(name, tensor.to_float32());
  choose_tolerance(result, options, {b.choice});
  const auto stored = stored_in_16_bits(taps_a);
  bool stored_input = false;
  if (const StoredTensor* input_a = reference.find("input"); stored && input_a) {
    TapValues alone;
    alone.add("input", input_a->to_float32());
    stored_input = stored_in_16_bits(alone) == stored;
  }
  if (stored && size_of(storage_dtype(b.choice.precision)) > 2) allow_rounding(result, *stored, stored_input);
  Arithmetic of_a = arithmetic_of(options.reference);
  if (result.reference_dtype) {
    of_a.saved = arithmetic_of(*stored).storage;
    of_a.smallest = arithmetic_of(*stored).smallest;
    if (stored_input) of_a.input = of_a.saved;
  } else if (stored) {
    of_a = arithmetic_of(*stored);
  }
  Judge judge{b, run_b, {of_a, arithmetic_of(b.choice.precision)}, nullptr};
  compare_chunk(nullptr, taps_a, taps_a.find("logits"), judge, input, compare_options(result, options, b),
                result);
  const bool nothing = std::all_of(result.taps.begin(), result.taps.end(),
                                   [](const Diff& diff) { return diff.name == "input"; });
  if (taps_a.all().size() == 1 && taps_a.find("logits"))
    result.notes.push_back("only logits were given; nothing can be localised: dump taps");
  if (!b.config.out_indices && !nothing && !taps_a.find("logits"))
    result.notes.push_back(fmt::format(
        "the reference has no logits: nothing of the model behind {} was compared", result.taps.back().name));
  if (nothing && taps_a.all().empty())
    fail_input("{}: nothing to compare: it holds no tensor but input: dump the logits and taps too",
               reference.where);
  if (nothing)
    fail_input(
        "{}: nothing to compare: no tensor of it is a tap of this model ({} is not): taps are named "
        "logits, layers.0.blocks.0, …",
        reference.where, in_quotes(taps_a.all().front().first));
  check_compared(result, options);
  if (truth) {
    result.truth =
        truth->report(truth_side(result.reference_dtype.value_or(DType::float32)), truth_side(b.choice));
    truth->judge({.file = &reference}, {.run = &run_b, .input = &input.b}, *result.truth);
  }
  return result;
}

Repeatability repeat(const Side& side, const CheckInput& input, int times, const CheckOptions& options) {
  Runner runner(side.config, *side.weights, side.choice);
  Repeatability result;
  result.report = runner.report();
  result.input = input.description;
  const CompareOptions exact{.tolerance = {0, 0}, .equal_nan = true};
  TapStore store(runner.kernels());
  runner.run(input.b, &store);
  const TapValues first = store.take();
  result.taps = static_cast<int64_t>(first.all().size());
  const auto judge = [&](int run, const Diff& diff, const char* how) {
    if (result.identical() && !diff.identical())
      result.first_difference =
          fmt::format("run {}{}: {}, first at {}", run, how, diff.name, diff.place(diff.first_differing));
  };
  // Without an observer a device may fuse steps or replay a graph: compared with its own first run.
  const HostTensor logits = runner.run(input.b);
  for (result.runs = 1; result.runs < times && result.identical(); ++result.runs) {
    TapComparison comparison(runner.kernels(), first, exact);
    runner.run(input.b, &comparison);
    for (const Diff& diff : comparison.diffs) judge(result.runs + 1, diff, "");
    judge(result.runs + 1, compare_tensors("logits", logits, runner.run(input.b), exact), " without taps");
    if (options.progress) options.progress(result.runs + 1, times, {});
  }
  return result;
}

StateDict saved_taps(const Side& side, const CheckInput& input, bool all) {
  Runner runner(side.config, *side.weights, side.choice);
  TapStore store(runner.kernels());
  runner.run(input.b, &store);
  StateDict file;
  file.metadata = {
      {"format", "vmamba-cli taps"}, {"ran", to_string(runner.report())}, {"input", input.description}};
  file.add("input", input.b);
  const TapValues values = store.take();
  for (const auto& [name, value] : values.all())
    if (all || is_coarse(name)) file.add(name, value);
  return file;
}

HostTensor noise(const std::vector<int64_t>& dims, uint64_t seed) {
  HostTensor result{dims, {}};
  int64_t size = 1;
  for (const int64_t dim : dims) size *= dim;
  result.values.resize(static_cast<size_t>(size));
  TorchRandom(seed).normal(result.values);
  return result;
}

}  // namespace vmamba
