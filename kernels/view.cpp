#include "kernels/view.h"

#include "kernels/error.h"

namespace vmamba {

std::string to_string(Device device) {
  const DeviceRow& row = row_of(device.type);
  return row.numbered ? fmt::format("{}:{}", row.name, device.index) : std::string(row.name);
}

View::View(void* data_, DType dtype_, Device device_, std::initializer_list<int64_t> dims_)
    : data(data_), dtype(dtype_), device(device_), rank(static_cast<int>(dims_.size())) {
  check(rank >= 1 && rank <= max_rank, "a View has 1 to {} dimensions, not {}", int{max_rank}, rank);
  int i = 0;
  for (const int64_t dim : dims_) dims[i++] = dim;
  row_stride = dims[rank - 1];
}

int64_t View::rows() const {
  int64_t product = 1;
  for (int i = 0; i + 1 < rank; ++i) product *= dims[i];
  return product;
}

View View::slice_channels(int64_t begin, int64_t count) const {
  if (begin < 0 || count < 0 || begin + count > channels())
    check(false, "channels [{}, {}) of {}", begin, begin + count, shape_string(*this));
  View slice = *this;
  slice.data = static_cast<char*>(data) + static_cast<size_t>(begin) * size_of(dtype);
  slice.dims[rank - 1] = count;
  return slice;
}

View View::slice_front(int64_t begin, int64_t count) const {
  if (rank < 2 || begin < 0 || count < 0 || begin + count > dims[0])
    check(false, "entries [{}, {}) of {}", begin, begin + count, shape_string(*this));
  View slice = *this;
  const int64_t rows_each = dims[0] == 0 ? 0 : rows() / dims[0];
  slice.data =
      static_cast<char*>(data) + static_cast<size_t>(begin * rows_each * row_stride) * size_of(dtype);
  slice.dims[0] = count;
  return slice;
}

View View::reshaped(std::initializer_list<int64_t> new_dims) const {
  check(is_dense(), "only a dense View can be reshaped");
  View view(data, dtype, device, new_dims);
  if (view.elements() != elements())
    check(false, "{} can't be reshaped to {}", shape_string(*this), shape_string(view));
  return view;
}

std::string shape_string(const View& view) {
  return fmt::format("({})", fmt::join(view.dims.begin(), view.dims.begin() + view.rank, ", "));
}

bool same_shape(const View& a, const View& b) {
  return a.rank == b.rank && a.dims == b.dims;
}

}  // namespace vmamba
