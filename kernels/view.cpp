#include "kernels/view.h"

#include "kernels/error.h"

namespace vmamba {

std::string to_string(Device device) {
  return device.type == DeviceType::cpu ? "cpu" : fmt::format("cuda:{}", device.index);
}

size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::float64:
    case DType::int64:
      return 8;
    case DType::float32:
    case DType::int32:
      return 4;
    case DType::float16:
    case DType::bfloat16:
    case DType::int16:
      return 2;
    case DType::uint8:
    case DType::int8:
    case DType::boolean:
      return 1;
  }
  return 0;
}

std::string_view to_string(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return "float32";
    case DType::float16:
      return "float16";
    case DType::bfloat16:
      return "bfloat16";
    case DType::float64:
      return "float64";
    case DType::uint8:
      return "uint8";
    case DType::int8:
      return "int8";
    case DType::int16:
      return "int16";
    case DType::int32:
      return "int32";
    case DType::int64:
      return "int64";
    case DType::boolean:
      return "bool";
  }
  return "?";
}

std::string_view to_string(Precision precision) {
  switch (precision) {
    case Precision::float32:
      return "float32";
    case Precision::tf32:
      return "tf32";
    case Precision::float16:
      return "float16";
    case Precision::bfloat16:
      return "bfloat16";
  }
  return "?";
}

DType storage_dtype(Precision precision) {
  if (precision == Precision::float16) return DType::float16;
  if (precision == Precision::bfloat16) return DType::bfloat16;
  return DType::float32;
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
