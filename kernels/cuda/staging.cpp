#include "kernels/cuda/staging.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/tuning.h"

namespace vmamba::cuda {

using tuning::staging_half_bytes;

Staging::Staging() {
  for (Half& half : halves_) {
    half.memory = pinned_memory(staging_half_bytes);
    half.copied = event(cudaEventDisableTiming);
  }
}

Staging::Half& Staging::next() {
  turn_ ^= 1;
  CUDA_CALL(cudaEventSynchronize(halves_[turn_].copied.get()));  // returns at once before the first use
  return halves_[turn_];
}

void Staging::upload(const void* from, void* to, size_t bytes, cudaStream_t stream) {
  for (size_t done = 0; done < bytes; done += staging_half_bytes) {
    const size_t count = std::min(staging_half_bytes, bytes - done);
    Half& half = next();
    std::memcpy(half.memory.get(), static_cast<const char*>(from) + done, count);
    CUDA_CALL(cudaMemcpyAsync(static_cast<char*>(to) + done, half.memory.get(), count, cudaMemcpyHostToDevice,
                              stream));
    CUDA_CALL(cudaEventRecord(half.copied.get(), stream));
  }
}

void Staging::download(const void* from, void* to, size_t bytes, cudaStream_t stream) {
  for (size_t done = 0; done < bytes; done += staging_half_bytes) {
    const size_t count = std::min(staging_half_bytes, bytes - done);
    Half& half = next();
    CUDA_CALL(cudaMemcpyAsync(half.memory.get(), static_cast<const char*>(from) + done, count,
                              cudaMemcpyDeviceToHost, stream));
    CUDA_CALL(cudaEventRecord(half.copied.get(), stream));
    CUDA_CALL(cudaEventSynchronize(half.copied.get()));
    std::memcpy(static_cast<char*>(to) + done, half.memory.get(), count);
  }
}

void QueuedCopies::queue(const void* from, size_t bytes, cudaStream_t stream) {
  Copy copy;
  if (!spare_.empty()) {
    copy = std::move(spare_.back());
    spare_.pop_back();
  }
  if (copy.bytes < bytes) copy = {pinned_memory(bytes), bytes, event(cudaEventDisableTiming)};
  CUDA_CALL(cudaMemcpyAsync(copy.memory.get(), from, bytes, cudaMemcpyDeviceToHost, stream));
  CUDA_CALL(cudaEventRecord(copy.copied.get(), stream));
  queued_.push_back(std::move(copy));
}

void QueuedCopies::take(void* to, size_t bytes) {
  if (queued_.empty() || queued_.front().bytes < bytes) fail_unsupported("no such copy is queued");
  Copy copy = std::move(queued_.front());
  queued_.pop_front();
  CUDA_CALL(cudaEventSynchronize(copy.copied.get()));
  std::memcpy(to, copy.memory.get(), bytes);
  spare_.push_back(std::move(copy));
}

}  // namespace vmamba::cuda
