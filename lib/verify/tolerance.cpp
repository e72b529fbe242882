#include "lib/verify/tolerance.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "kernels/parallel.h"
#include "lib/config/names.h"
#include "lib/model/weights.h"
#include "lib/verify/scan_variants.h"

namespace vmamba {
namespace {

constexpr double u32 = 0x1p-24;
// Below it results may be subnormal or, on some devices, 0: an error of up to 2^-126, the smallest normal number.
constexpr double least_float32 = 0x1p-126 / u32;
// Relative size of the perturbation (of max(|value|, smallest)): far above float32's roundoff, and small enough for every
// step to be nearly linear.
constexpr double least_move = 0x1p-10;
constexpr int probes = 2, closer_probes = 8;
// Error of exp, erf, softplus and the like, in units in the last place.
constexpr double function_ulps = 2;
// Of GELU at x < 0, where 1 + erf cancels: about |x|/2, and |x| < 6 where the result is not 0.
constexpr double gelu_ulps = 2;

uint64_t splitmix64(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

// Random signs for one tensor after another, the same for any number of threads.
class Signs {
 public:
  Signs(uint64_t seed, int threads) : state_(splitmix64(seed)), threads_(threads) {}
  // Calls body(i, ±1) for every i < count.
  template <class Body>
  void each(size_t count, const Body& body) {
    constexpr uint64_t step = 0x9e3779b97f4a7c15u;
    const uint64_t tensor = splitmix64(state_ += step);
    parallel_ranges(threads_, static_cast<int64_t>(count + 63) / 64, 256, [&](int64_t begin, int64_t end) {
      for (auto word = static_cast<size_t>(begin); word < static_cast<size_t>(end); ++word) {
        uint64_t bits = splitmix64(tensor + word * step);
        for (size_t i = 64 * word; i < std::min(64 * word + 64, count); ++i, bits >>= 1)
          body(i, (bits & 1) != 0 ? -1.0f : 1.0f);
      }
    });
  }
  // Each value by its sign times move · max(|value|, smallest).
  void move_all(std::vector<float>& values, double move, double smallest) {
    each(values.size(), [&](size_t i, float sign) {
      values[i] +=
          sign * static_cast<float>(move) * std::max(std::abs(values[i]), static_cast<float>(smallest));
    });
  }

 private:
  uint64_t state_;
  int threads_;
};

StateDict moved(const StateDict& weights, double move, double smallest, int threads) {
  StateDict result;
  result.where = weights.where;
  Signs signs(1, threads);
  for (const auto& [name, tensor] : weights.tensors) {
    if (!is_floating(tensor.dtype)) {
      result.tensors.emplace_back(name, tensor);
      continue;
    }
    HostTensor values = tensor.to_float32();
    signs.move_all(values.values, move, smallest);
    result.add(name, values);
  }
  return result;
}

// Standard deviation of each element's error.
std::vector<float> deviations(const ErrorModel& model, const HostTensor& of, int threads) {
  const size_t channels = model.channels.size();
  std::vector<float> result(of.values.size());
  parallel_ranges(threads, static_cast<int64_t>(result.size() / channels), 64,
                  [&](int64_t begin, int64_t end) {
                    for (auto r = static_cast<size_t>(begin); r < static_cast<size_t>(end); ++r)
                      for (size_t c = 0; c < channels; ++c) {
                        const size_t i = r * channels + c;
                        result[i] = static_cast<float>(std::sqrt(model.variance(r, c, of.values[i])));
                      }
                  });
  return result;
}

// Calls back with each tap's value and lets it be replaced.
class Replacing : public Taps {
 public:
  using Replace = std::function<void(std::string_view, HostTensor&)>;
  Replacing(Kernels& kernels, Replace replace) : transfer_(kernels), replace_(std::move(replace)) {}
  bool wants(std::string_view) override { return true; }
  void at(std::string_view name, const View& value) override {
    transfer_.download(value, host_);
    replace_(name, host_);
    transfer_.upload(host_, value);
  }

 private:
  Transfer transfer_;
  Replace replace_;
  HostTensor host_;
};

// The mean of so many squares is below the true one by this factor once in 100,000 times (the lower tail of chi-square).
double most_by_chance(int samples) {
  const double half = samples / 2.0;
  return half / std::pow(1e-5 * std::tgamma(half + 1), 1 / half);
}

// Mean squares from the sums of `samples` squares each. One with few samples may be small by chance: it is shrunk towards what
// is typical, but one far above that (a bias of 1000, say) does not make the others larger, nor does it become more than
// `most_shrunk` times itself. activated: none is below what is typical.
std::vector<double> mean_squares(std::vector<double> sums, double samples, bool activated,
                                 double most_shrunk = HUGE_VAL) {
  constexpr double lean = 16, far = 64;
  const double part = activated ? 0.9 : 0.5;  // an activation closes many channels
  std::vector<double> present;
  for (double& sum : sums) {
    sum /= samples;
    if (sum > 0) present.push_back(sum);
  }
  if (present.empty()) return sums;
  const auto usual =
      present.begin() + static_cast<std::ptrdiff_t>(part * static_cast<double>(present.size() - 1));
  std::nth_element(present.begin(), usual, present.end());
  const double most = far * *usual;
  double typical = 0;
  for (const double mean : sums) typical += std::min(mean, most) / static_cast<double>(sums.size());
  for (double& mean : sums) {
    const double shrunk = (samples * mean + lean * typical) / (samples + lean);
    const bool is_small = !activated && mean > 0 && shrunk > most_shrunk * mean;
    mean = is_small ? most_shrunk * mean : std::max(mean > most ? mean : shrunk, activated ? typical : 0);
  }
  return sums;
}

// Mean squares of differences by channel, and by row (pixel) of differences relative to their channel's.
class Spread {
 public:
  // `one_by_one`: those of each element too.
  void add(const HostTensor& from, const HostTensor& to, int threads, bool one_by_one = false) {
    const size_t channels = static_cast<size_t>(from.dims.back()), rows = from.values.size() / channels;
    rows_.resize(rows);
    channels_.resize(channels);
    if (one_by_one) elements_.resize(from.values.size());
    ++samples_;
    const auto square = [&](size_t i) {
      const double difference = static_cast<double>(to.values[i]) - from.values[i];
      return finite_or_0(difference * difference);
    };
    // Parts of a size that depends on nothing else, so that neither do the sums: of squares, then of values' squares.
    const size_t part_rows = std::max<size_t>((1 << 15) / channels, 1),
                 parts = (rows + part_rows - 1) / part_rows;
    std::vector<std::vector<double>> sums(parts);
    parallel_claims(threads, static_cast<int64_t>(parts), [&](int64_t part, int, bool) {
      std::vector<double>& sum = sums[static_cast<size_t>(part)];
      sum.resize(2 * channels);
      const size_t begin = static_cast<size_t>(part) * part_rows, end = std::min(begin + part_rows, rows);
      for (size_t r = begin; r < end; ++r)
        for (size_t c = 0; c < channels; ++c) {
          const double value = from.values[r * channels + c];
          sum[c] += square(r * channels + c);
          sum[channels + c] += finite_or_0(value * value);
        }
      if (one_by_one)
        for (size_t i = begin * channels; i < end * channels; ++i) elements_[i] += square(i);
    });
    std::vector<double> factors(channels);  // of this sample: rows / Σ squares
    for (size_t c = 0; c < channels; ++c) {
      double squares = 0;
      for (const std::vector<double>& sum : sums) {
        squares += sum[c];
        values_ += sum[channels + c];
      }
      channels_[c] += squares;
      all_ += squares;
      if (squares < least_square) continue;
      factors[c] = static_cast<double>(rows) / squares;
      ++of_row_;
    }
    parallel_ranges(threads, static_cast<int64_t>(rows), 64, [&](int64_t begin, int64_t end) {
      for (auto r = static_cast<size_t>(begin); r < static_cast<size_t>(end); ++r)
        for (size_t c = 0; c < channels; ++c) rows_[r] += square(r * channels + c) * factors[c];
    });
  }
  // Mean square of an element: its channel's times its row's factor. Behind an activation neither is below what is typical,
  // because the slope varies from element to element.
  ErrorModel model(double scale, bool activated) const {
    ErrorModel result;
    for (const double square : mean_squares(channels_, samples_ * static_cast<double>(rows_.size()),
                                            activated, most_by_chance(samples_)))
      result.channels.push_back(static_cast<float>(scale * std::sqrt(square)));
    for (const double square : mean_squares(rows_, std::max(of_row_, 1.0), activated))
      result.rows.push_back(static_cast<float>(std::sqrt(square)));
    // An element's own few samples, with the weight of as many from its row and channel.
    std::vector<float> elements;
    for (size_t i = 0; i < elements_.size(); ++i) {
      const double of_place = result.variance(i / channels_.size(), i % channels_.size(), 0);
      elements.push_back(
          static_cast<float>(std::sqrt((scale * scale * elements_[i] / samples_ + of_place) / 2)));
    }
    result.elements = std::move(elements);
    return result;
  }
  // Many channels' errors are far below the others': not by chance, so few samples do not tell how far.
  bool has_scales() const {
    double all = 0;
    for (const double sum : channels_) all += sum / static_cast<double>(channels_.size());
    const auto small =
        std::ranges::count_if(channels_, [&](double sum) { return sum > 0 && sum < all / 256; });
    return small > 1 + static_cast<ptrdiff_t>(channels_.size() / 16);
  }
  // Error proportional to the value.
  double relative() const { return values_ > 0 ? std::sqrt(all_ / values_) : 0; }

 private:
  static constexpr double least_square = 1e-280;
  static double finite_or_0(double square) {
    return square <= std::numeric_limits<double>::max() ? square : 0;
  }
  std::vector<double> rows_, channels_, elements_;
  double of_row_ = 0;  // samples of each row: channels that moved
  double all_ = 0, values_ = 0;
  int samples_ = 0;
};

}  // namespace

Arithmetic arithmetic_of(DType storage) {
  if (storage == DType::float16) return {0x1p-11, 0x1p-11, 0x1p-14};
  if (storage == DType::bfloat16) return {0x1p-8, 0x1p-8, least_float32};
  return {u32, u32, least_float32};
}

Arithmetic arithmetic_of(Precision precision) {
  Arithmetic result = arithmetic_of(storage_dtype(precision));
  // TF32 keeps 10 bits of a factor; some devices truncate instead of rounding.
  if (row_of(precision).tf32) result.product = 0x1p-10;
  return result;
}

bool is_scan(std::string_view tap) {
  return kind_of(tap).ends_with(".scan") || !direction_of(tap).empty();
}

StepRounding rounding_of(std::string_view tap, const Config& config, int64_t pixels) {
  const std::string_view kind = kind_of(tap);
  const auto is = [&](auto... names) { return ((kind == names) || ...); };
  const auto place = in_block(tap);
  size_t stage = place ? place->stage : 0;
  if (kind == "downsample") stage = std::stoul(std::string(tap.substr(std::string_view("layers.").size())));
  if (const auto output = out_norm_stage(tap)) stage = *output;
  if (tap == "logits" || tap.starts_with("classifier")) stage = config.dims.size() - 1;
  const double channels = config.dims[stage];
  const int at = static_cast<int>(stage);
  const double inner = std::max(1, config.d_inner(at)), hidden = std::max(1, config.mlp_hidden(at));
  if (tap == "patch_embed") {
    const double side = config.patch_size;
    return config.patchembed_version == PatchEmbedVersion::v1
               ? StepRounding{config.in_chans * side * side, true, 2}
               : StepRounding{9 * std::max<double>(channels / 2, config.in_chans), true, 4};
  }
  if (is("pos_embed", "blocks")) return {1, false, 1};
  if (is("downsample")) return {9 * channels, true, 2};
  if (is("classifier.norm") || out_norm_stage(tap)) return {channels, false, 1};
  if (is("classifier.pool")) return {static_cast<double>(pixels), false, 1};
  const bool mlp_gelu = config.mlp_act_layer == Activation::gelu,
             ssm_gelu = config.ssm_act_layer == Activation::gelu;
  if (is("mlp.fc1")) return {channels, true, 1, true, mlp_gelu && !config.gmlp};
  if (is("logits", "op.in_proj")) return {channels, true, 1};
  if (is("norm")) return {channels, false, 1};
  if (is("norm2")) return {std::max(channels, inner), true, 2};
  if (is("mlp.fc2")) return {hidden, true, 2};
  if (is("op.out_proj")) return {inner, true, 1};
  if (is("op.conv2d"))
    return {static_cast<double>(config.ssm_conv * config.ssm_conv), false, 1, true, ssm_gelu};
  if (kind.ends_with(".x_proj")) return {inner, true, 1};
  if (is_scan(tap)) return {static_cast<double>(config.dt_rank(at) + config.ssm_d_state), false, 1};
  if (is("op.out_norm", "op.gated")) {
    const bool softmax = config.forward.out_norm == OutNorm::softmax;
    const bool gelu = config.forward.out_act || (kind == "op.gated" && ssm_gelu);
    return {softmax ? static_cast<double>(pixels) : inner, false, 3, config.forward.out_act, gelu, softmax};
  }
  return {std::max(inner, hidden), true, 2};  // the residual sum of a block
}

ErrorProbe::ErrorProbe(const Config& config, const StateDict& weights, const RunChoice& choice,
                       std::vector<Arithmetic> sides)
    : config_(config),
      weights_(canonical_weights(config, weights)),
      choice_(choice),
      sides_(std::move(sides)),
      threads_(threads_to_use(choice.threads)) {
  for (const Arithmetic& side : sides_) smallest_ = std::max(smallest_, side.smallest);
  choice_.precision = Precision::float32;
  plain_ = std::make_unique<Runner>(config, weights_, choice_);
  moved_ = std::make_unique<Runner>(config, moved(weights_, least_move, smallest_, threads_), choice_);
}

ErrorProbe::~ErrorProbe() = default;

ErrorModels ErrorProbe::own(const TapValues& a, const HostTensor& input) {
  return measured(a, input, *moved_, least_move, probes, nullptr);
}

ErrorModels ErrorProbe::closer(const TapValues& a, const HostTensor& input,
                               const std::set<std::string, std::less<>>& steps) {
  double squares = 0;
  for (const Arithmetic& side : sides_) squares += std::pow(std::max(side.product, side.saved), 2);
  const double roundoff = std::sqrt(squares);
  Runner at_roundoff(config_, moved(weights_, roundoff, smallest_, threads_), choice_);
  ErrorModels models = measured(a, input, at_roundoff, roundoff, closer_probes, &steps);
  // Small moves are lost in float32's own rounding, large ones leave the neighbourhood where a step is linear.
  if (roundoff < least_move)
    for (const auto& [name, further] : measured(a, input, *moved_, least_move, closer_probes, &steps)) {
      std::vector<float>& elements = models.at(name).elements;
      elements.resize(std::max(elements.size(), further.elements.size()));
      for (size_t i = 0; i < further.elements.size(); ++i)
        elements[i] = std::max(elements[i], further.elements[i]);
    }
  for (auto& [name, model] : models) add_recurrence(model, name, a);
  return models;
}

// The rounding of h ← exp(ΔA) h + ΔB x is as large as h, however small ΔA is: with a memory of M steps, M times the
// roundoff of one.
void ErrorProbe::add_recurrence(ErrorModel& model, const std::string& step, const TapValues& a) const {
  const std::string block = std::string(block_of(step)) + ".op.";
  const std::vector<double> bound = recurrence_error(
      {&config_, &weights_, block, a.find(block + "conv2d"), a.find(block + "x_proj")}, direction_of(step));
  if (bound.size() != model.elements.size()) return;
  for (size_t i = 0; i < bound.size(); ++i) {
    const double measured = model.elements[i], one_side = bound[i] * u32 / 4;
    model.elements[i] = static_cast<float>(
        std::sqrt(measured * measured + static_cast<double>(sides_.size()) * one_side * one_side));
  }
}

ErrorModels ErrorProbe::measured(const TapValues& a, const HostTensor& input, Runner& moved, double move,
                                 int probes, const std::set<std::string, std::less<>>* steps) {
  const auto start_of = [&](std::string_view name, HostTensor& value) {
    const HostTensor* given = a.find(name);
    if (given && given->dims == value.dims) value.values = given->values;
    return given != nullptr;
  };
  TapValues exact;
  Replacing still(plain_->kernels(), [&](std::string_view name, HostTensor& value) {
    exact.add(std::string(name), value);
    start_of(name, value);
  });
  plain_->run(input, &still);

  std::map<std::string, Spread, std::less<>> spreads;
  const auto has_scales = [&](const auto& spread) {
    return spread.second.has_scales() && !rounding_of(spread.first, config_, 1).activated;
  };
  for (int probe = 0; probe < probes; ++probe) {
    if (probe + 1 == probes && probes < closer_probes && std::ranges::any_of(spreads, has_scales))
      probes = closer_probes;
    Signs signs(static_cast<uint64_t>(probe) + 2, threads_);
    HostTensor moved_input = input;
    signs.move_all(moved_input.values, move, smallest_);
    Replacing moving(moved.kernels(), [&](std::string_view name, HostTensor& value) {
      spreads[std::string(name)].add(*exact.find(name), value, threads_, steps && steps->contains(name));
      start_of(name, value);
      signs.move_all(value.values, move, smallest_);
    });
    moved.run(moved_input, &moving);
  }

  ErrorModels models;
  StepRounding chain{0, false, 0};  // roundings since the last tap that a has
  bool from_input = true;           // there is none yet
  int64_t pixels = 1;
  for (const auto& [name, value] : exact.all()) {
    const StepRounding step = rounding_of(name, config_, pixels);
    if (value.dims.size() == 4) pixels = value.dims[1] * value.dims[2];
    chain.terms = std::max(chain.terms, step.terms);
    chain.products |= step.products;
    chain.stores = std::max(chain.stores, step.stores);
    chain.gelu |= step.gelu;
    double operands = 0, results = 0;  // relative variances of the operands and of the result
    for (const Arithmetic& side : sides_) {
      const double u =
          std::max(chain.products ? side.product : side.storage, from_input ? side.input : side.saved);
      operands += u * u + (function_ulps * function_ulps + chain.terms) * u32 * u32;
      results +=
          chain.stores * side.storage * side.storage + side.saved * side.saved + chain.terms / 3 * u32 * u32;
    }
    const Spread& spread = spreads.at(name);
    const double scale = std::sqrt(operands) / move;
    ErrorModel model = spread.model(scale, step.activated);
    model.of_value = std::hypot(std::sqrt(results), step.softmax ? scale * spread.relative() : 0);
    model.smallest = smallest_;
    if (chain.gelu) model.absolute = gelu_ulps * u32 * std::sqrt(static_cast<double>(sides_.size()));
    // Up to a tap that a lacks the errors add up to the next that it has, which has all of them.
    if (a.find(name) && (!steps || steps->contains(name))) models.emplace(name, std::move(model));
    // A backbone's output is beside the stream, which does not continue from it.
    if (a.find(name) && !out_norm_stage(name)) {
      chain = {0, false, 0};
      from_input = false;
    }
  }
  return models;
}

TapValues ErrorProbe::taps(const HostTensor& input) {
  TapStore store(plain_->kernels());
  plain_->run(input, &store);
  return store.take();
}

ErrorModels ErrorProbe::drift(const ErrorModels& own, const HostTensor& input) {
  TapValues exact;
  double largest = 0;  // largest relative own error of any step
  Replacing still(plain_->kernels(), [&](std::string_view name, HostTensor& value) {
    const auto model = own.find(name);
    if (model != own.end() && model->second.fits(value.dims)) {
      const std::vector<float> errors = deviations(model->second, value, threads_);
      double sum = 0, squares = 0;
      for (size_t i = 0; i < errors.size(); ++i) {
        const double v = value.values[i], deviation = errors[i];
        if (!std::isfinite(v)) continue;
        sum += deviation * deviation;
        squares += v * v;
      }
      if (squares > 0) largest = std::max(largest, std::sqrt(sum / squares));
    }
    exact.add(std::string(name), value);
  });
  plain_->run(input, &still);
  ErrorModels models;
  if (!(largest > 0)) return models;

  // Errors are injected amplified by this factor, but never attenuated, because steps are not linear in large errors.
  const double louder = std::max(1.0, least_move / largest);
  std::map<std::string, Spread, std::less<>> spreads;
  for (int probe = 0; probe < probes; ++probe) {
    Signs signs(static_cast<uint64_t>(probe) + 100, threads_);
    Replacing moving(plain_->kernels(), [&](std::string_view name, HostTensor& value) {
      const auto model = own.find(name);
      if (model != own.end() && model->second.fits(value.dims)) {
        const std::vector<float> errors = deviations(model->second, value, threads_);
        signs.each(errors.size(), [&](size_t i, float sign) {
          value.values[i] += sign * static_cast<float>(louder) * errors[i];
        });
      }
      spreads[std::string(name)].add(*exact.find(name), value, threads_);
    });
    plain_->run(input, &moving);
  }
  for (const auto& [name, spread] : spreads) {
    ErrorModel model = spread.model(1 / louder, false);
    // An element that dominates its row and channel (the largest of a softmax) has an error proportional to it.
    model.of_value = spread.relative() / louder;
    models.emplace(name, std::move(model));
  }
  return models;
}

}  // namespace vmamba
