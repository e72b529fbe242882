// Observers of a forward's taps (lib/model/taps.h): TapStore copies them to the host in float32, TapComparison compares
// them with stored ones as they are produced, so that a comparison holds the taps of only one run.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kernels/kernels.h"
#include "lib/model/taps.h"
#include "lib/tensors/state_dict.h"
#include "lib/tensors/tensor.h"
#include "lib/verify/compare.h"

namespace vmamba {

// Tap values by name, in the order they were produced.
class TapValues {
 public:
  HostTensor& add(std::string name, HostTensor value);  // replaces a tap of the same name
  const HostTensor* find(std::string_view name) const;  // null if absent
  const std::deque<std::pair<std::string, HostTensor>>& all() const { return taps_; }

 private:
  std::deque<std::pair<std::string, HostTensor>> taps_;
  std::unordered_map<std::string, size_t> index_;
};

// Converts between device values and host float32. Its staging buffer is reused between calls.
class Transfer {
 public:
  explicit Transfer(Kernels& kernels) : kernels_(kernels) {}
  void download(const View& value, HostTensor& to);
  HostTensor download(const View& value);
  // Rounds to the dtype of `value`, which must be the buffer the next step reads.
  void upload(const HostTensor& host, const View& value);

 private:
  View staging(const View& like);
  Kernels& kernels_;
  Tensor staging_;
  size_t staging_bytes_ = 0;
};

// Stores every tap.
class TapStore : public Taps {
 public:
  explicit TapStore(Kernels& kernels) : transfer_(kernels) {}
  bool wants(std::string_view) override { return true; }
  void at(std::string_view name, const View& value) override;
  TapValues take() { return std::move(values_); }

 private:
  Transfer transfer_;
  TapValues values_;
};

// Stores some taps of one forward. Steps stay fused, as without taps, unless one of them lies inside a block.
class TapSelection : public Taps {
 public:
  TapSelection(Kernels& kernels, std::vector<std::string> names);
  bool wants(std::string_view name) override;
  bool looks_inside() const override { return inside_; }
  void at(std::string_view name, const View& value) override;
  const std::vector<HostTensor>& values() const { return values_; }  // in the order of the names

 private:
  Transfer transfer_;
  std::vector<std::string> names_;
  std::vector<HostTensor> values_;
  bool inside_ = false;
};

// With a problem if the shapes differ.
Diff compare_tensors(std::string name, const HostTensor& a, const HostTensor& b,
                     const CompareOptions& options);

// Compares each tap with the reference tap of the same name. With `restart`, the forward then continues from the
// reference's value, so that each difference is the own error of one step.
class TapComparison : public Taps {
 public:
  using Observer = std::function<void(const Diff&, const HostTensor& a, const HostTensor& b)>;
  TapComparison(Kernels& kernels, const TapValues& reference, const CompareOptions& options,
                bool restart = false)
      : transfer_(kernels), reference_(reference), options_(options), restart_(restart) {}
  bool wants(std::string_view name) override { return reference_.find(name) != nullptr; }
  void at(std::string_view name, const View& value) override;

  const std::map<std::string, ErrorModel, std::less<>>* errors =
      nullptr;                     // by tap; if not null, replaces the tolerance
  Observer observer;               // if set, called for every compared tap
  std::vector<Diff> diffs;         // in the order produced
  std::vector<std::string> extra;  // taps missing in the reference

 private:
  Transfer transfer_;
  const TapValues& reference_;
  CompareOptions options_;
  bool restart_;
  HostTensor b_;
};

}  // namespace vmamba
