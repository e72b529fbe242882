#include "lib/verify/tap_store.h"

#include <algorithm>
#include <cstring>

#include "kernels/error.h"
#include "lib/config/names.h"

namespace vmamba {

HostTensor& TapValues::add(std::string name, HostTensor value) {
  const auto [entry, is_new] = index_.try_emplace(name, taps_.size());
  if (is_new)
    taps_.emplace_back(std::move(name), std::move(value));
  else
    taps_[entry->second].second = std::move(value);
  return taps_[entry->second].second;
}

const HostTensor* TapValues::find(std::string_view name) const {
  const auto entry = index_.find(std::string(name));
  return entry == index_.end() ? nullptr : &taps_[entry->second].second;
}

// Contiguous float32 device memory with the shape of `like`.
View Transfer::staging(const View& like) {
  const size_t bytes = static_cast<size_t>(like.elements()) * sizeof(float);
  if (bytes > staging_bytes_) {
    staging_ = Tensor();
    staging_ = Tensor(kernels_, DType::float32, {like.elements()});
    staging_bytes_ = bytes;
  }
  View view = like;
  view.data = staging_.view().data;
  view.dtype = DType::float32;
  view.row_stride = like.channels();
  return view;
}

void Transfer::download(const View& value, HostTensor& to) {
  to.dims.assign(value.dims.begin(), value.dims.begin() + value.rank);
  to.values.resize(static_cast<size_t>(value.elements()));
  if (value.device.type == DeviceType::cpu) return kernels_.cast(value, to.view());
  const View dense = staging(value);
  kernels_.cast(value, dense);
  kernels_.copy(dense, to.view());
  kernels_.synchronize();
}

HostTensor Transfer::download(const View& value) {
  HostTensor host;
  download(value, host);
  return host;
}

void Transfer::upload(const HostTensor& host, const View& value) {
  if (value.device.type == DeviceType::cpu) {
    kernels_.cast(host.view(), value);
    return;
  }
  const View dense = staging(value);
  kernels_.copy(host.view(), dense);
  kernels_.cast(dense, value);
  kernels_.synchronize();
}

void TapStore::at(std::string_view name, const View& value) {
  values_.add(std::string(name), transfer_.download(value));
}

TapSelection::TapSelection(Kernels& kernels, std::vector<std::string> names)
    : transfer_(kernels), names_(std::move(names)), values_(names_.size()) {
  for (const std::string& name : names_) {
    const auto place = in_block(name);
    inside_ = inside_ || (place && !place->rest.empty());
  }
}

bool TapSelection::wants(std::string_view name) {
  return std::ranges::find(names_, name) != names_.end();
}

void TapSelection::at(std::string_view name, const View& value) {
  for (size_t i = 0; i < names_.size(); ++i)
    if (names_[i] == name) values_[i] = transfer_.download(value);
}

Diff compare_tensors(std::string name, const HostTensor& a, const HostTensor& b,
                     const CompareOptions& options) {
  if (a.dims == b.dims) return compare(std::move(name), a.dims, a.values, b.values, options);
  Diff diff;
  diff.name = std::move(name);
  diff.dims = b.dims;
  diff.problem = fmt::format("shape {} in a, {} in b", shape_string(a.dims), shape_string(b.dims));
  return diff;
}

void TapComparison::at(std::string_view name, const View& value) {
  const HostTensor* a = reference_.find(name);
  if (!a) {
    extra.emplace_back(name);
    return;
  }
  transfer_.download(value, b_);
  CompareOptions options = options_;
  if (errors)
    if (const auto model = errors->find(name); model != errors->end()) options.errors = &model->second;
  diffs.push_back(compare_tensors(std::string(name), *a, b_, options));
  if (!diffs.back().problem.empty()) return;
  if (observer) observer(diffs.back(), *a, b_);
  if (restart_) transfer_.upload(*a, value);
}

}  // namespace vmamba
