// Lookup, conversion and copies of stored tensors.
#include "lib/tensors/state_dict.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/error.h"
#include "kernels/half.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

template <class T>
T load(const void* data, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + static_cast<size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

template <class T, class Real>
void copy_as(const void* data, std::vector<Real>& out) {
  if constexpr (std::is_same_v<T, Real>) {
    if (!out.empty()) std::memcpy(out.data(), data, out.size() * sizeof(T));
  } else {
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = static_cast<Real>(load<T>(data, static_cast<int64_t>(i)));
  }
}

template <class Real>
HostArray<Real> values_of(const StoredTensor& tensor) {
  if (!tensor.unreadable.empty()) fail_input("{}", tensor.unreadable);
  HostArray<Real> result{tensor.dims, std::vector<Real>(static_cast<size_t>(tensor.elements()))};
  std::vector<Real>& out = result.values;
  const void* data = tensor.data;
  switch (tensor.dtype) {
    case DType::float32:
      copy_as<float>(data, out);
      break;
    case DType::float64:
      copy_as<double>(data, out);
      break;
    case DType::float16:
    case DType::bfloat16:
      for (size_t i = 0; i < out.size(); ++i)
        out[i] = half_to_float(tensor.dtype, load<uint16_t>(data, static_cast<int64_t>(i)));
      break;
    case DType::uint8:
      copy_as<uint8_t>(data, out);
      break;
    case DType::int8:
      copy_as<int8_t>(data, out);
      break;
    case DType::int16:
      copy_as<int16_t>(data, out);
      break;
    case DType::int32:
      copy_as<int32_t>(data, out);
      break;
    case DType::int64:
      copy_as<int64_t>(data, out);
      break;
    case DType::boolean:
      for (size_t i = 0; i < out.size(); ++i)
        out[i] = load<uint8_t>(data, static_cast<int64_t>(i)) != 0 ? Real{1} : Real{0};
      break;
  }
  return result;
}

}  // namespace

int64_t StoredTensor::elements() const {
  int64_t product = 1;
  for (const int64_t dim : dims) product *= dim;
  return product;
}

HostTensor StoredTensor::to_float32() const {
  return values_of<float>(*this);
}
HostArray<double> StoredTensor::to_float64() const {
  return values_of<double>(*this);
}

std::string shape_string(const std::vector<int64_t>& dims) {
  return fmt::format("({})", fmt::join(dims, ", "));
}

const StoredTensor* StateDict::find(std::string_view name) const {
  for (const auto& [candidate, tensor] : tensors) {
    if (candidate == name) return &tensor;
  }
  return nullptr;
}

const StoredTensor& StateDict::at(std::string_view name) const {
  if (const StoredTensor* tensor = find(name)) return *tensor;
  fail_input("{} has no tensor {}", where, name);
}

void StateDict::add(std::string name, const View& host_tensor) {
  check(host_tensor.device.type == DeviceType::cpu && host_tensor.is_dense(), "{} is no dense host tensor",
        name);
  const auto copy = std::make_shared<std::vector<char>>(host_tensor.bytes());
  if (!copy->empty()) std::memcpy(copy->data(), host_tensor.data, copy->size());
  StoredTensor tensor;
  tensor.dtype = host_tensor.dtype;
  tensor.dims.assign(host_tensor.dims.begin(), host_tensor.dims.begin() + host_tensor.rank);
  tensor.data = copy->data();
  tensor.owner = copy;
  tensors.emplace_back(std::move(name), std::move(tensor));
}

void StateDict::add(std::string name, const HostTensor& host_tensor) {
  const auto copy = std::make_shared<std::vector<float>>(host_tensor.values);
  StoredTensor tensor;
  tensor.dims = host_tensor.dims;
  check(tensor.elements() == host_tensor.elements(), "{} {} holds {} values", name, shape_string(tensor.dims),
        copy->size());
  tensor.data = copy->data();
  tensor.owner = copy;
  tensors.emplace_back(std::move(name), std::move(tensor));
}

namespace {

std::vector<std::string_view> dtypes_that_hold(double number) {
  std::vector<std::string_view> names;
  for (const DTypeRow& row : table_of<DType>)
    if (row.storage && std::abs(number) <= row.largest) names.push_back(row.name);
  return names;
}

}  // namespace

StateDict converted(const StateDict& tensors, DType dtype) {
  check(is_floating(dtype), "tensors can't be converted to {}", to_string(dtype));
  StateDict result;
  result.where = tensors.where;
  result.metadata = tensors.metadata;
  for (const auto& [name, tensor] : tensors.tensors) {
    if (!is_floating(tensor.dtype) || tensor.dtype == dtype) {
      result.tensors.emplace_back(name, tensor);
      continue;
    }
    const int64_t count = tensor.elements();
    const auto buffer = std::make_shared<std::vector<char>>(static_cast<size_t>(count) * size_of(dtype));
    const HostTensor values = tensor.to_float32();
    // captured explicitly: clang up to 15 cannot capture structured bindings
    const auto store = [&, &name = name, &tensor = tensor](int64_t i, auto value, bool overflown) {
      if (overflown) {
        const double number =
            tensor.dtype == DType::float64 ? load<double>(tensor.data, i) : values.values[i];
        fail_input("{}: {} of tensor {} is beyond {}: choose {}", tensors.where, number, name,
                   to_string(dtype), alternatives(dtypes_that_hold(number)));
      }
      std::memcpy(buffer->data() + static_cast<size_t>(i) * sizeof(value), &value, sizeof(value));
    };
    for (int64_t i = 0; i < count; ++i) {
      const bool finite = tensor.dtype == DType::float64 ? std::isfinite(load<double>(tensor.data, i))
                                                         : std::isfinite(values.values[i]);
      const float value = values.values[i];
      if (size_of(dtype) == 2) {
        const uint16_t half = float_to_half(dtype, value);
        store(i, half, finite && std::isinf(half_to_float(dtype, half)));
      } else if (dtype == DType::float32) {
        store(i, value, finite && std::isinf(value));
      } else {
        store(i, static_cast<double>(value), false);
      }
    }
    StoredTensor copy = tensor;
    copy.dtype = dtype;
    copy.data = buffer->data();
    copy.owner = buffer;
    result.tensors.emplace_back(name, std::move(copy));
  }
  return result;
}

}  // namespace vmamba
