// The operations a VMamba forward needs, implemented once a device. Feature maps are NHWC; letters: B batch,
// H W map, C or D channels, M = B·H·W rows, N = d_state, R = dt_rank, K scan directions.
//
// The public functions check shapes and dtypes (std::logic_error with wanted and got: a wrong shape is a bug
// of the caller) and count multiply-accumulates; the protected `do_…` compute. "T" is the storage dtype
// (DTypeRow::storage); arithmetic is float32 inside every operation, with one rounding where a
// result is stored. Calls are asynchronous on a CUDA device; all of one object's work is on one stream.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/scan_order.h"
#include "kernels/view.h"

namespace vmamba {

// The 2-D selective scan of one SS2D block (Mamba, arXiv 2312.00752, eq. 2 and 3; VMamba, arXiv 2401.10166).
// For each direction k, with s walking the direction's sequence:
//   Δ[d] = softplus(round_T(Σ_r dt_weight[k,d,r] · dt[r]) + dt_bias[k,d])
//   h[d,n] ← exp(Δ[d] · A[k,d,n]) · h[d,n] + Δ[d] · Bmat[n] · x[d],  h = 0 at a sequence's start
//   y_k[d] = Σ_n Cmat[n] · h[d,n] + D[k,d] · x[d]
// and y = Σ_k y_k, each at its own pixel, summed in float32.
// Without dt_weight (Mamba-2), channel d belongs to head d / (D / R) and Δ[d] = softplus(dt[head] +
// dt_bias[k,d]).
struct SelectiveScan2d {
  View x;            // (B, H, W, D) T, row-strided
  View projections;  // (B, H, W, K·(R + 2N)) T, row-strided; per direction: dt (R), Bmat (N), Cmat (N)
  View dt_weight;    // (K, D, R) T, or absent
  View dt_bias;      // (K, D) float32
  View A;            // (K, D, N) float32: −exp(A_logs)
  View D;            // (K, D) float32
  ScanOrder order = ScanOrder::cross;
  ScanBackend backend = ScanBackend::automatic;
  bool round_directions = false;  // each y_k is rounded to T before the merge (forward core v1)
  View directions;                // (K, B, H, W, D) float32: every y_k, only when somebody observes it
  View y;                         // (B, H, W, D) float32
};

// Work that was captured once and can be launched again (a CUDA graph).
class CapturedWork {
 public:
  virtual ~CapturedWork() = default;
  virtual void launch() = 0;
};

class Kernels {
 public:
  virtual ~Kernels() = default;
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;

  Device device() const { return device_; }
  virtual std::string description() const = 0;  // "Intel(R) Xeon(R) …, 2 threads, AVX3_SPR"

  // --- Memory. allocate throws OutOfMemory; memory is 256-byte aligned and not cleared.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  virtual size_t available_memory() const = 0;  // bytes free on the device now
  // Dense, same dtype, same number of elements; either side on the host or the device. Ordered with the
  // device's work; where a side is host memory, the copy is complete on return.
  virtual void copy(const View& from, const View& to) = 0;
  // Like copy, from the host, but beside the work queued since the last upload, which must not touch `to`.
  // Returns when `from` may be changed.
  virtual void upload(const View& from, const View& to) { copy(from, to); }
  virtual void synchronize() {}  // returns when all work is done
  // Runs `work` once more while recording it; null where the device has no such thing (CPU).
  virtual std::unique_ptr<CapturedWork> capture(const std::function<void()>& work);
  // Marks this point in the stream of work; elapsed_ms gives the times between successive marks and forgets
  // them.
  virtual void mark() = 0;
  virtual std::vector<float> elapsed_ms() = 0;

  // --- Operations.
  // y = (u8 / 255 − mean[c]) / std[c]. pixels (B,H,W,3) uint8; mean, std (3) host float32; y (B,H,W,3) T.
  void normalize(const View& pixels, const float* mean, const float* std, const View& y);
  // y (B,H,W,C) T from x (B,C,H,W) float32.
  void nchw_to_nhwc(const View& x, const View& y);
  // Copies with conversion between float32, float16 and bfloat16; both row-strided, same shape.
  void cast(const View& x, const View& y);
  // y = act(x · wᵀ + bias) + residual. x (M, in) T row-strided, w (out, in) T, bias (out) float32 or absent,
  // residual and y (M, out), both T or both float32; residual may be y itself, or absent. w and bias are
  // weights: no operation that is still under way writes them.
  void linear(const View& x, const View& w, const View& bias, Activation act, const View& residual,
              const View& y);
  // y = act(LayerNorm(x) · wᵀ + bias), as layer_norm and linear say; x T or float32. normed (…, in) T is only
  // room for the norm: what stands there afterwards is not defined.
  void norm_linear(const View& x, const View& gamma, const View& beta, float epsilon, const View& normed,
                   const View& w, const View& bias, Activation act, const View& y);
  // Convolution with zero padding. x (B,H,W,I) T, w (O, kh, kw, I) T, bias (O) float32 or absent, y
  // (B,Ho,Wo,O) T.
  void conv2d(const View& x, const View& w, const View& bias, int stride, int padding, const View& y);
  // y = act(LayerNorm(conv2d(x, w, bias))) over y's channels; gamma, beta (O) float32.
  void conv2d_norm(const View& x, const View& w, const View& bias, int stride, int padding, const View& gamma,
                   const View& beta, float epsilon, Activation act, const View& y);
  // Per-channel convolution, stride 1, padding (k−1)/2, k odd, then act. x (B,H,W,D) T or float32,
  // row-strided; w (k, k, D) float32; bias (D) float32 or absent; y (B,H,W,D) of x's dtype.
  void depthwise_conv2d(const View& x, const View& w, const View& bias, Activation act, const View& y);
  // y = act(LayerNorm(x)) · gate over the last dimension. gamma, beta (C) float32 or both absent; gate like
  // y, row- strided, or absent. x T or float32, y T or float32. round_norm: the norm's result is rounded to
  // y's dtype before act (and act's before the gate); otherwise only the last result is rounded.
  void layer_norm(const View& x, const View& gamma, const View& beta, float epsilon, Activation act,
                  const View& gate, bool round_norm, const View& y);
  // y = act(x · scale + shift), per channel (a folded BatchNorm); scale, shift (C) float32.
  void channel_affine(const View& x, const View& scale, const View& shift, Activation act, const View& y);
  // y = act(x) · gate; gate absent: act only. x T or float32, gate and y T or float32; all row-strided.
  // round_act: act's result is rounded to y's dtype before the gate.
  void activate(const View& x, Activation act, const View& gate, bool round_act, const View& y);
  // y = x + other, same shape or other (1,H,W,C) broadcast over the batch. All T; y may be x.
  void add(const View& x, const View& other, const View& y);
  // softmax over the H·W pixels of each channel. x (B,H,W,C) float32, y T or float32.
  void softmax_pixels(const View& x, const View& y);
  // y (B, ceil(H/2), ceil(W/2), 4C): channels of pixels (0,0), (1,0), (0,1), (1,1) [row, column] of each 2×2
  // square of x (B,H,W,C), zero beyond the edge.
  void merge_patches(const View& x, const View& y);
  // Mean over the pixels: x (B,H,W,C) T, y (B,C) float32.
  void mean_pool(const View& x, const View& y);
  void selective_scan_2d(const SelectiveScan2d& scan);
  // The scan, then out = act(LayerNorm(scan.y)) · gate as layer_norm says. scan.y is only room for it: what
  // stands there afterwards is not defined.
  void selective_scan_2d_norm(const SelectiveScan2d& scan, const View& gamma, const View& beta, float epsilon,
                              Activation act, const View& gate, bool round_norm, const View& out);

  // Multiply-accumulates of matrix products, convolutions and scans since construction (per call, not per
  // launch).
  uint64_t multiply_accumulates() const { return macs_; }

 protected:
  explicit Kernels(Device device) : device_(device) {}

  virtual void do_normalize(const View& pixels, const float* mean, const float* std, const View& y) = 0;
  virtual void do_nchw_to_nhwc(const View& x, const View& y) = 0;
  virtual void do_cast(const View& x, const View& y) = 0;
  virtual void do_linear(const View& x, const View& w, const View& bias, Activation act, const View& residual,
                         const View& y) = 0;
  // In two steps, unless a device has one for it.
  virtual void do_norm_linear(const View& x, const View& gamma, const View& beta, float epsilon,
                              const View& normed, const View& w, const View& bias, Activation act,
                              const View& y);
  virtual void do_conv2d(const View& x, const View& w, const View& bias, int stride, int padding,
                         const View& y) = 0;
  // In two steps, unless a device has one for it.
  virtual void do_conv2d_norm(const View& x, const View& w, const View& bias, int stride, int padding,
                              const View& gamma, const View& beta, float epsilon, Activation act,
                              const View& y);
  virtual void do_depthwise_conv2d(const View& x, const View& w, const View& bias, Activation act,
                                   const View& y) = 0;
  virtual void do_layer_norm(const View& x, const View& gamma, const View& beta, float epsilon,
                             Activation act, const View& gate, bool round_norm, const View& y) = 0;
  virtual void do_channel_affine(const View& x, const View& scale, const View& shift, Activation act,
                                 const View& y) = 0;
  virtual void do_activate(const View& x, Activation act, const View& gate, bool round_act,
                           const View& y) = 0;
  virtual void do_add(const View& x, const View& other, const View& y) = 0;
  virtual void do_softmax_pixels(const View& x, const View& y) = 0;
  virtual void do_merge_patches(const View& x, const View& y) = 0;
  virtual void do_mean_pool(const View& x, const View& y) = 0;
  virtual void do_selective_scan_2d(const SelectiveScan2d& scan) = 0;
  // In two steps, unless a device has one for it.
  virtual void do_selective_scan_2d_norm(const SelectiveScan2d& scan, const View& gamma, const View& beta,
                                         float epsilon, Activation act, const View& gate, bool round_norm,
                                         const View& out);

 private:
  void check_linear(const View& x, const View& w, const View& bias, const View& residual, const View& y);
  void check_layer_norm(const View& x, const View& gamma, const View& beta, const View& gate, const View& y);
  void check_scan(const SelectiveScan2d& scan);
  void check_conv2d(const View& x, const View& w, const View& bias, int stride, int padding, const View& y);

  Device device_;
  uint64_t macs_ = 0;
};

struct KernelOptions {
  int threads = 0;          // CPU threads; 0: all the process may use
  bool allow_tf32 = false;  // CUDA: float32 matrix products through TF32
};

// The fast kernels of a device. MachineError where the device is not there, saying why.
std::unique_ptr<Kernels> make_kernels(Device device, const KernelOptions& options = {});
// The plain scalar kernels on the CPU: one loop nest an operation, sums in double; the oracle for the fast
// ones.
std::unique_ptr<Kernels> make_scalar_kernels();
// Computes nothing and touches no memory: sizes the arena and counts multiply-accumulates.
std::unique_ptr<Kernels> make_dry_kernels(Device device);

// What can run here, for `devices` and `--device auto`.
struct DeviceReport {
  Device device;
  std::string name;  // "NVIDIA H200, sm_90, 139.7 GiB"
  bool usable = false;
  std::string why_not;  // one line, when not usable
};
std::vector<DeviceReport> list_devices();  // the CPU first

}  // namespace vmamba
