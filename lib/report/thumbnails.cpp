#include "lib/report/thumbnails.h"

#include <algorithm>
#include <numeric>

#include "lib/report/canvas.h"

namespace vmamba {

std::vector<std::string> thumbnails(const std::vector<ImageRef>& images, const PreprocessConfig& preprocess) {
  constexpr int wanted_side = 144, quality = 85;
  PreprocessConfig small = preprocess;
  small.crop = std::min(wanted_side, preprocess.crop);
  small.resize = small.crop * preprocess.resize / preprocess.crop;
  std::vector<size_t> order(images.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](size_t i) { return std::pair(images[i].file, images[i].place); });
  std::vector<ImageRef> sorted;
  for (const size_t i : order) sorted.push_back(images[i]);

  std::vector<std::string> jpegs(images.size());
  ImageSource source(listed_images(std::move(sorted)), small, 16, 1);
  ImageBatch batch;
  const size_t bytes = size_t{3} * small.crop * small.crop;
  while (source.next(batch)) {
    size_t place = 0;
    for (const ImageBatch::Item& item : batch.items) {
      if (!item.error.empty()) continue;
      const auto begin = batch.pixels.begin() + static_cast<ptrdiff_t>(place++ * bytes);
      jpegs[order[item.index]] =
          jpeg_of({small.crop, small.crop, {begin, begin + static_cast<ptrdiff_t>(bytes)}}, quality);
    }
  }
  return jpegs;
}

}  // namespace vmamba
