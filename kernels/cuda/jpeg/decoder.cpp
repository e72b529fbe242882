#include "kernels/cuda/jpeg/decoder.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/tuning.h"
#include "kernels/error.h"

namespace vmamba::cuda {
namespace {

size_t aligned(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

// Workspace of one image besides its packed bytes.
struct Workspace {
  size_t coefficients = 0, differences = 0, spans = 0;
  size_t samples = 0, pixels = 0, narrowed = 0;
  size_t total() const { return coefficients + differences + spans + samples + pixels + narrowed; }
};
Workspace workspace_of(const JpegImage& image) {
  Workspace sizes;
  if (image.entropy == JpegEntropy::huffman) {
    const JpegScan& scan = image.scan;
    sizes.coefficients = aligned(static_cast<size_t>(image.blocks) * jpeg_coefficients * sizeof(int16_t));
    sizes.differences = aligned(static_cast<size_t>(scan.mcus) * scan.blocks_per_mcu * sizeof(int16_t));
    sizes.spans = aligned(static_cast<size_t>(scan.spans) * sizeof(JpegSpan));
  }
  sizes.samples = aligned(static_cast<size_t>(image.blocks) * jpeg_coefficients);
  sizes.pixels = aligned(static_cast<size_t>(image.columns) * image.rows * sizeof(uchar4));
  sizes.narrowed = aligned(static_cast<size_t>(image.across.count) * image.rows * 3);
  return sizes;
}

const JpegImage& image_of(const DecodeJpegs::Packed& packed) {
  return *reinterpret_cast<const JpegImage*>(packed.bytes.data());
}

cudaError_t allocate(PinnedMemory& memory, size_t bytes) {
  void* made = nullptr;
  const cudaError_t error = cudaHostAlloc(&made, bytes, cudaHostAllocDefault);
  memory.reset(made);
  return error;
}
cudaError_t allocate(DeviceMemory& memory, size_t bytes) {
  void* made = nullptr;
  const cudaError_t error = cudaMalloc(&made, bytes);
  memory.reset(made);
  return error;
}

}  // namespace

template <class Memory>
uint8_t* JpegDecoder::Growing<Memory>::at_least(size_t wanted) {
  if (wanted > bytes) {
    bytes = 0;
    memory.reset();
    const size_t some_more = wanted + wanted / 4;
    const cudaError_t error = allocate(memory, some_more);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw OutOfMemory(
          fmt::format("no {:.1f} MiB left for decoding JPEGs", static_cast<double>(some_more) / 0x1p20));
    }
    CUDA_CALL(error);
    bytes = some_more;
  }
  return static_cast<uint8_t*>(memory.get());
}

size_t JpegDecoder::decode_some(std::span<const DecodeJpegs::Packed> jpegs, const View& y,
                                const Stream& stream, std::vector<int64_t>& unfit) {
  size_t count = 0, packed_bytes = 0, workspace = 0, coefficient_bytes = 0;
  JpegExtent largest;
  for (; count < std::min(jpegs.size(), tuning::jpeg::most_images); ++count) {
    const JpegImage& image = image_of(jpegs[count]);
    const Workspace needed = workspace_of(image);
    if (count > 0 && packed_bytes + workspace + needed.total() > tuning::jpeg::workspace_bytes) break;
    workspace += needed.total();
    coefficient_bytes += needed.coefficients;
    packed_bytes += aligned(image.bytes);
    largest.blocks = std::max<int64_t>(largest.blocks, image.blocks);
    largest.pixels = std::max(largest.pixels, int64_t{image.columns} * image.rows);
    largest.narrowed = std::max(largest.narrowed, int64_t{image.across.count} * image.rows);
  }
  // Uploaded: verdicts (zeros), jobs, packed images. Then the workspace: the coefficients of all images, and what else
  // each needs.
  const size_t verdict_bytes = aligned(count * sizeof(int32_t)), job_bytes = aligned(count * sizeof(JpegJob));
  const size_t upload_bytes = verdict_bytes + job_bytes + packed_bytes;
  uint8_t* const host = host_.at_least(upload_bytes);
  uint8_t* const device = device_.at_least(upload_bytes + workspace);
  std::memset(host, 0, verdict_bytes);
  auto* jobs = reinterpret_cast<JpegJob*>(host + verdict_bytes);
  const size_t crop_bytes = y.bytes() / static_cast<size_t>(y.dim(0));
  size_t packed = verdict_bytes + job_bytes, coefficients = upload_bytes,
         work = upload_bytes + coefficient_bytes;
  for (size_t i = 0; i < count; ++i) {
    const std::span<const uint8_t> bytes = jpegs[i].bytes;
    const Workspace sizes = workspace_of(image_of(jpegs[i]));
    const auto take = [&](size_t size) {
      work += size;
      return device + work - size;
    };
    std::memcpy(host + packed, bytes.data(), bytes.size());
    jobs[i] = {.image = reinterpret_cast<const JpegImage*>(device + packed),
               .coefficients = reinterpret_cast<int16_t*>(device + coefficients),
               .differences = reinterpret_cast<int16_t*>(take(sizes.differences)),
               .spans = reinterpret_cast<JpegSpan*>(take(sizes.spans)),
               .samples = take(sizes.samples),
               .pixels = reinterpret_cast<uchar4*>(take(sizes.pixels)),
               .narrowed = take(sizes.narrowed),
               .crop = y.as<uint8_t>() + static_cast<size_t>(jpegs[i].place) * crop_bytes,
               .unfit = reinterpret_cast<int32_t*>(device) + i};
    packed += aligned(bytes.size());
    coefficients += sizes.coefficients;
  }
  CUDA_CALL(cudaMemcpyAsync(device, host, upload_bytes, cudaMemcpyHostToDevice, stream));
  const auto* device_jobs = reinterpret_cast<const JpegJob*>(device + verdict_bytes);
  if (coefficient_bytes > 0) {
    CUDA_CALL(cudaMemsetAsync(device + upload_bytes, 0, coefficient_bytes, stream));
    decode_entropy(device_jobs, static_cast<int>(count), stream);
  }
  decode_jpegs(device_jobs, static_cast<int>(count), largest, static_cast<int>(y.dim(1)),
               static_cast<int>(y.dim(2)), stream);
  CUDA_CALL(cudaMemcpyAsync(host, device, verdict_bytes, cudaMemcpyDeviceToHost, stream));
  CUDA_CALL(cudaStreamSynchronize(stream));
  for (size_t i = 0; i < count; ++i)
    if (reinterpret_cast<const int32_t*>(host)[i] != 0) unfit.push_back(jpegs[i].place);
  return count;
}

std::vector<int64_t> JpegDecoder::decode(const DecodeJpegs& op, Staging& staging, const Stream& stream) {
  // The images between two JPEGs are adjacent.
  int64_t next = 0;
  const auto upload_until = [&](int64_t end) {
    if (end > next) {
      const View from = op.pixels.slice_front(next, end - next), to = op.y.slice_front(next, end - next);
      staging.upload(from.data, to.data, from.bytes(), stream);
    }
    next = end + 1;
  };
  for (const DecodeJpegs::Packed& jpeg : op.jpegs) upload_until(jpeg.place);
  upload_until(op.y.dim(0));
  std::vector<int64_t> unfit;
  for (std::span<const DecodeJpegs::Packed> left = op.jpegs; !left.empty();)
    left = left.subspan(decode_some(left, op.y, stream, unfit));
  return unfit;
}

}  // namespace vmamba::cuda
