// What a run can choose: device, dtype, scan backend, activation. An enum and its table each; options, config,
// reports, `--matrix`, diagnosis, tests and completion loop over the rows. CONTRIBUTING.md says how to add one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>

#include "kernels/enum_table.h"

namespace vmamba {

enum class DType : uint8_t { float32, float16, bfloat16, float64, uint8, int8, int16, int32, int64, boolean };
// How a model computes: the storage dtype of its feature maps and the arithmetic of its matrix products.
// From fine to coarse.
enum class Precision : uint8_t { float64, float32, tf32, float16, bfloat16 };
enum class DeviceType : uint8_t { cpu, cuda };
// Which algorithm runs the scan. automatic: the fastest of the device (the one `oflex` names).
enum class ScanBackend : uint8_t { automatic, torch, mamba, oflex };
enum class Activation : uint8_t { none, silu, gelu, relu, sigmoid };  // gelu is the exact one (erf)

struct DTypeRow {
  DType value{};
  std::string_view name;
  std::string_view safetensors;  // what a file's header calls it
  size_t bytes = 0;              // of one element
  double largest = 0;            // finite value; 0: no floating-point dtype
  bool storage = false;          // what feature maps and weights may be stored as ("T")
  Aliases aliases{};
};
template <>
inline constexpr auto table_of<DType> = std::to_array<DTypeRow>({
    {DType::float32, "float32", "F32", 4, 0x1.fffffep127, true, {"fp32"}},
    {DType::float16, "float16", "F16", 2, 65504, true, {"fp16", "half"}},
    {DType::bfloat16, "bfloat16", "BF16", 2, 0x1.fep127, true, {"bf16"}},
    {DType::float64, "float64", "F64", 8, 0x1.fffffffffffffp1023, true, {"fp64", "double"}},
    {DType::uint8, "uint8", "U8", 1},
    {DType::int8, "int8", "I8", 1},
    {DType::int16, "int16", "I16", 2},
    {DType::int32, "int32", "I32", 4},
    {DType::int64, "int64", "I64", 8},
    {DType::boolean, "bool", "BOOL", 1},
});
constexpr size_t size_of(DType dtype) {
  return row_of(dtype).bytes;
}
constexpr bool is_floating(DType dtype) {
  return row_of(dtype).largest > 0;
}
constexpr bool is_storage(DType dtype) {
  return row_of(dtype).storage;
}
// What operations on storage of this dtype compute in, and keep what they do not round ("S").
constexpr DType computed_in(DType storage) {
  return storage == DType::float64 ? DType::float64 : DType::float32;
}

struct PrecisionRow {
  Precision value{};
  std::string_view name;
  Aliases aliases{};
  DType storage{};                    // of feature maps
  bool tf32 = false;                  // float32 matrix products through TF32
  std::optional<DeviceType> only_on;  // absent: every device has it
};
constexpr PrecisionRow stored_as(Precision value, DType storage, std::optional<DeviceType> only_on = {}) {
  return {value, row_of(storage).name, row_of(storage).aliases, storage, false, only_on};
}
template <>
inline constexpr auto table_of<Precision> = std::to_array<PrecisionRow>({
    stored_as(Precision::float64, DType::float64, DeviceType::cpu),  // on the scalar kernels
    stored_as(Precision::float32, DType::float32),
    {Precision::tf32, "tf32", {}, DType::float32, true, DeviceType::cuda},
    stored_as(Precision::float16, DType::float16),
    stored_as(Precision::bfloat16, DType::bfloat16),
});
constexpr DType storage_dtype(Precision precision) {
  return row_of(precision).storage;
}
constexpr bool runs_on(DeviceType device, Precision precision) {
  return row_of(precision).only_on.value_or(device) == device;
}

struct DeviceRow {
  DeviceType value{};
  std::string_view name;
  Aliases aliases{};
  bool numbered = false;  // there may be several: NAME:0, NAME:1, …
  Precision automatic{};  // the dtype where none is chosen
};
template <>
inline constexpr auto table_of<DeviceType> = std::to_array<DeviceRow>({
    {DeviceType::cpu, "cpu", {}, false, Precision::float32},
    {DeviceType::cuda, "cuda", {"gpu"}, true, Precision::float16},
});

struct ScanBackendRow {
  ScanBackend value{};
  std::string_view name;
  Aliases aliases{};
  bool writes_as_read = false;  // rounds each direction's output to the dtype that it reads; others: float32
};
template <>
inline constexpr auto table_of<ScanBackend> = std::to_array<ScanBackendRow>({
    {ScanBackend::torch, "torch"},
    {ScanBackend::mamba, "mamba", {}, true},
    {ScanBackend::oflex, "oflex"},
    {ScanBackend::automatic, "null", {"auto"}},  // as a config spells it
});
// The algorithm that runs.
constexpr ScanBackend resolved(ScanBackend backend) {
  return backend == ScanBackend::automatic ? ScanBackend::oflex : backend;
}

template <>
inline constexpr auto table_of<Activation> = std::to_array<Named<Activation>>({
    {Activation::silu, "silu"},
    {Activation::gelu, "gelu"},
    {Activation::relu, "relu"},
    {Activation::sigmoid, "sigmoid"},
    {Activation::none, "none"},  // no choice of a config
});

}  // namespace vmamba
