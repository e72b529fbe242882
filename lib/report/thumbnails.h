// Small pictures of images for pages.
#pragma once
#include <string>
#include <vector>

#include "lib/images/image_source.h"

namespace vmamba {

// JPEGs of the crops that a model with this preprocessing sees, in the order of the images; empty for an image that cannot be
// read. Archives are read once.
std::vector<std::string> thumbnails(const std::vector<ImageRef>& images, const PreprocessConfig& preprocess);

}  // namespace vmamba
