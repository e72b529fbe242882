// Device and View: what kernels are given. A View never owns memory.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "kernels/choices.h"

namespace vmamba {

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};
std::string to_string(Device device);  // "cpu", "cuda:0"

// A row-major array of up to 5 dimensions. Rows (the last dimension) may have a stride of more than their
// length, so a slice of channels of an NHWC map is a View too; everything else is dense. Without data a View
// is absent.
struct View {
  static constexpr int max_rank = 5;

  void* data = nullptr;
  DType dtype = DType::float32;
  Device device;
  int rank = 0;
  std::array<int64_t, max_rank> dims{};
  int64_t row_stride = 0;

  View() = default;
  View(void* data, DType dtype, Device device, std::initializer_list<int64_t> dims);

  explicit operator bool() const { return data != nullptr; }
  int64_t dim(int i) const { return dims[i < 0 ? rank + i : i]; }
  int64_t channels() const { return rank == 0 ? 0 : dim(-1); }  // length of a row
  int64_t rows() const;                                         // product of all dimensions but the last
  int64_t elements() const { return rows() * channels(); }
  bool is_dense() const { return row_stride == channels(); }
  size_t bytes() const { return static_cast<size_t>(elements()) * size_of(dtype); }  // of a dense View

  // The channels [begin, begin + count) of every row.
  View slice_channels(int64_t begin, int64_t count) const;
  // The entries [begin, begin + count) of the first dimension.
  View slice_front(int64_t begin, int64_t count) const;
  // The same memory with other dimensions of the same product; this View must be dense.
  View reshaped(std::initializer_list<int64_t> dims) const;

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};
std::string shape_string(const View& view);  // "(2, 56, 56, 96)"
bool same_shape(const View& a, const View& b);

}  // namespace vmamba
