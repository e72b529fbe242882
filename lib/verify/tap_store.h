// Observers of a forward's taps (lib/model/taps.h): one keeps them on the host in float32, one compares them with
// kept ones as they appear, so that a comparison of two runs holds the taps of one.
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

// The values of taps by name, in the order in which they appeared.
class TapValues {
 public:
  HostTensor& add(std::string name, HostTensor value);  // replaces one of the same name
  const HostTensor* find(std::string_view name) const;  // null: not there
  const std::deque<std::pair<std::string, HostTensor>>& all() const { return taps_; }

 private:
  std::deque<std::pair<std::string, HostTensor>> taps_;
  std::unordered_map<std::string, size_t> index_;
};

// Device values ↔ host float32. Keeps its staging memory between calls.
class Transfer {
 public:
  explicit Transfer(Kernels& kernels) : kernels_(kernels) {}
  HostTensor download(const View& value);
  // Rounded to the dtype of `value`, which must be the memory that the next step reads.
  void upload(const HostTensor& host, const View& value);

 private:
  View staging(const View& like);
  Kernels& kernels_;
  Tensor staging_;
  size_t staging_bytes_ = 0;
};

// Keeps every tap.
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

// Compares each tap with the reference's of the same name. With `restart`, each step then goes on from the
// reference's value instead of its own: what differs is what that one step adds, not what it was handed.
class TapComparison : public Taps {
 public:
  using Observer = std::function<void(const Diff&, const HostTensor& a, const HostTensor& b)>;
  TapComparison(Kernels& kernels, const TapValues& reference, const CompareOptions& options,
                bool restart = false)
      : transfer_(kernels), reference_(reference), options_(options), restart_(restart) {}
  bool wants(std::string_view name) override { return reference_.find(name) != nullptr; }
  void at(std::string_view name, const View& value) override;

  const std::map<std::string, ErrorModel, std::less<>>* errors =
      nullptr;                     // by tap, in place of the tolerance
  Observer observer;               // sees every compared tap, if set
  std::vector<Diff> diffs;         // in order of appearance
  std::vector<std::string> extra;  // taps that the reference doesn't have

 private:
  Transfer transfer_;
  const TapValues& reference_;
  CompareOptions options_;
  bool restart_;
};

}  // namespace vmamba
