// The same image gets the same logits, bit for bit, from run to run, at any place of a batch of any size and on any
// number of threads (docs/verification.md says where), on every SIMD target.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>

#include "lib/config/config.h"
#include "lib/model/runner.h"
#include "lib/tensors/state_dict.h"
#include "lib/verify/check_equal.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;

namespace {

// oneDNN's products of AVX2 add up in an order that depends on the rows and threads that there are.
bool products_are_independent() {
  constexpr auto wanted = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & wanted) == wanted;
}

HostTensor rotated(const HostTensor& images, int64_t begin, int64_t count) {
  HostTensor batch{images.dims, {}};
  batch.dims[0] = count;
  const int64_t all = images.dims[0], each = images.elements() / all;
  for (int64_t i = 0; i < count; ++i) {
    const auto from = images.values.begin() + (begin + i) % all * each;
    batch.values.insert(batch.values.end(), from, from + each);
  }
  return batch;
}

}  // namespace

TEST_CASE("an image's logits are the same bits in any batch, at any place, on any number of threads") {
  const bool independent = products_are_independent();
  if (!independent)
    MESSAGE("oneDNN runs without AVX-512: only runs of the same batch and threads are compared");
  for (const char* name : {"s1_ln2d", "vanilla_v0_odd_size", "m0_noz_oact_odd", "gmlp"}) {
    const auto folder = data("models") / name;
    const Config config = load_config(folder / "config.json");
    const StateDict weights = read_safetensors(folder / "weights.safetensors");
    const int64_t size = config.preprocess.crop, count = 5;
    const HostTensor images = noise({count, 3, size, size}, 1);
    for (const Precision precision : {Precision::float32, Precision::bfloat16}) {
      const auto runner = [&](int threads) {
        return Runner(config, weights, {.device = {}, .precision = precision, .threads = threads});
      };
      Runner alone = runner(1);
      std::vector<std::vector<float>> wanted;
      for (int64_t i = 0; i < count; ++i) wanted.push_back(alone.run(rotated(images, i, 1)).values);
      for (const int threads : {1, 2, 4}) {
        Runner run = runner(threads), again = runner(threads);
        for (const auto& [begin, batch] :
             {std::pair<int64_t, int64_t>{0, 1}, {3, 2}, {1, 3}, {2, 5}, {4, 7}}) {
          CAPTURE(name);
          CAPTURE(to_string(precision));
          CAPTURE(threads);
          CAPTURE(batch);
          const HostTensor input = rotated(images, begin, batch), logits = run.run(input);
          CHECK(std::memcmp(logits.values.data(), again.run(input).values.data(),
                            logits.values.size() * sizeof(float)) == 0);
          const size_t classes = wanted[0].size();
          for (int64_t i = 0; independent && i < batch; ++i)
            CHECK(std::memcmp(&logits.values[static_cast<size_t>(i) * classes],
                              wanted[static_cast<size_t>((begin + i) % count)].data(),
                              classes * sizeof(float)) == 0);
        }
      }
    }
  }
}
