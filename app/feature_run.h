// The taps of images, batch by batch, on one device: what features writes and nearest compares.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/classifier.h"
#include "app/input_tally.h"
#include "lib/images/shard.h"
#include "lib/verify/provenance.h"
#include "lib/verify/tap_store.h"

namespace vmamba {

struct Feature {
  std::string name;  // as asked for
  std::string tap;
  std::vector<int64_t> dims;  // of one image: (H, W, C) or (C)
};

class FeatureRun {
 public:
  // Loads the model. `names`: taps, layers.I and outnormI; if empty, all outputs of a backbone, else classifier.pool.
  // `input_tensor`: a file that is run instead of images.
  FeatureRun(const ModelOptions& options, const std::vector<std::string>& names, int batch_size,
             const std::string& input_tensor = {});

  const std::vector<Feature>& features() const { return features_; }
  const Provenance& provenance() const { return provenance_; }
  std::string ran() const { return to_string(runner_->report()); }

  // Of a batch, one tensor (n, …) per feature.
  using Rows = std::function<void(const std::vector<HostTensor>& values)>;
  void run_tensor(const Rows& rows);
  // Images that cannot be read are skipped; InputError if none of a whole input can be.
  void run_images(const std::vector<std::string>& inputs, char end, const Shard& shard, const Rows& rows);

  InputTally tally;
  std::vector<std::string> files;  // of the rows

 private:
  void run_pieces(int64_t count, const std::function<void(int64_t begin, int64_t n)>& run, const Rows& rows);

  Config config_;
  RunChoice choice_;
  std::optional<HostTensor> input_;
  std::vector<Feature> features_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<TapSelection> taps_;
  int batch_size_ = 0;
  Provenance provenance_;
};

}  // namespace vmamba
