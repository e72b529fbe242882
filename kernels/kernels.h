// The operations of a VMamba forward: the one interface that every device implements.
//
// Notation: B batch, H W height and width of a feature map, C or D channels, M = B·H·W rows, N = d_state, R =
// dt_rank, K scan directions, T the storage dtype (DTypeRow::storage), S what is computed in: float32, or
// float64 where T is float64 (computed_in). Feature maps are NHWC.
//
// An operation takes a struct, which states its formula, shapes and dtypes once; an absent View (no data)
// leaves the optional operand out. The public functions check shapes and dtypes (std::logic_error with wanted
// and got: a wrong shape is a bug of the caller) and count multiply-accumulates; the protected `do_…`
// compute. Arithmetic is in S; a result is rounded once, when it is stored, unless the struct says otherwise.
//
// Streams: on a CUDA device calls are asynchronous, and all work of an object is ordered on one stream.
//
// Threads: an object is used by one host thread at a time, CapturedWork::launch and the destructors of its
// memory included; handing it to another thread needs a synchronisation by the caller. Different objects
// share no state and may be used by different threads at the same time, on one device or several. Memory is
// released by the object that allocated it, and only that object's operations may touch it. The factories
// (make_kernels, …), list_devices and device() may be called from any thread.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/scan_order.h"
#include "kernels/view.h"

namespace vmamba {

// Which intermediate results of a fused operation are rounded to the dtype of y.
enum class Rounding : uint8_t {
  last,       // none: only the result that is stored
  each_step,  // each of them, as PyTorch rounds where every step is an operation of its own
};

// Added to the variance of every LayerNorm: PyTorch's default, which no VMamba config changes.
inline constexpr float layer_norm_epsilon = 1e-5f;

// y = act(x · wᵀ + bias) + residual. w and bias are weights: nothing that is still queued writes them.
struct Linear {
  View x;     // (M, in) T, row-strided
  View w;     // (out, in) T
  View bias;  // (out) S, or absent
  Activation act = Activation::none;
  View residual;  // (M, out) of y's dtype, row-strided, or absent; may be y itself
  View y;         // (M, out) T or S, row-strided
};

// y = act((x − mean) / √(variance + epsilon) · gamma + beta) · gate; mean and variance are those of a row.
struct LayerNorm {
  View x;            // (…, C) T or S, row-strided
  View gamma, beta;  // (C) S, or both absent
  float epsilon = layer_norm_epsilon;
  Activation act = Activation::none;
  View gate;                           // like y, or absent
  Rounding rounding = Rounding::last;  // the steps: norm, act
  View y;                              // (…, C) T or S, row-strided; may be x
};

// y = act(LayerNorm(x) · wᵀ + bias).
struct NormLinear {
  LayerNorm norm;  // without act and gate; norm.y (…, in) T: workspace, contents unspecified on return
  Linear linear;   // linear.x is norm.y; no residual
};

// fc2.y = fc2(act(fc1(LayerNorm(x)))) + residual, as NormLinear and Linear compute it. norm.y, fc1.x, fc1.y and fc2.x are
// absent.
struct Mlp {
  LayerNorm norm;   // without act and gate
  Linear fc1, fc2;  // fc1 without residual
};

// Convolution with zero padding.
struct Conv2d {
  View x;     // (B, H, W, I) T
  View w;     // (O, kh, kw, I) T
  View bias;  // (O) S, or absent
  int stride = 1;
  int padding = 0;
  View y;  // (B, (H + 2·padding − kh) / stride + 1, (W + 2·padding − kw) / stride + 1, O) T
};

// y = act(LayerNorm(conv2d(x, w, bias))) over y's channels.
struct Conv2dNorm {
  Conv2d conv;
  LayerNorm norm;  // in place: norm.x and norm.y are conv.y; with gamma and beta, without gate
};

// One k × k kernel per channel, stride 1, padding (k − 1) / 2, k odd, then act.
struct DepthwiseConv2d {
  View x;     // (B, H, W, D) T or S, row-strided
  View w;     // (k, k, D) S
  View bias;  // (D) S, or absent
  Activation act = Activation::none;
  View y;  // (B, H, W, D) of x's dtype, row-strided
};

// y = act(x · scale + shift) per channel: a folded BatchNorm.
struct ChannelAffine {
  View x;             // (…, C) T or S, row-strided
  View scale, shift;  // (C) S
  Activation act = Activation::none;
  View y;  // (…, C) T or S, row-strided
};

// y = act(x) · gate.
struct Activate {
  View x;  // (…, C) T or S, row-strided
  Activation act = Activation::none;
  View gate;                           // (…, C) T or S, row-strided, or absent
  Rounding rounding = Rounding::last;  // the step: act
  View y;                              // (…, C) T or S, row-strided; may be x or gate
};

// What becomes of each direction's y_k before the directions are summed.
enum class DirectionRounding : uint8_t {
  none,     // it stays S
  storage,  // it is rounded to T (forward core v1)
};

// The 2-D selective scan of one SS2D block (Mamba, arXiv 2312.00752, eq. 2 and 3; VMamba, arXiv 2401.10166).
// For each direction k, along the direction's sequence of pixels:
//   Δ[d] = softplus(round_T(Σ_r dt_weight[k,d,r] · dt[r]) + dt_bias[k,d])
//   h[d,n] ← exp(Δ[d] · A[k,d,n]) · h[d,n] + Δ[d] · Bmat[n] · x[d],  h = 0 at the start of a sequence
//   y_k[d] = Σ_n Cmat[n] · h[d,n] + D[k,d] · x[d]
// and y = Σ_k y_k, summed in S at each pixel.
// Without dt_weight (Mamba-2), channel d belongs to head d / (D / R) and Δ[d] = softplus(dt[head] +
// dt_bias[k,d]).
struct SelectiveScan2d {
  View x;            // (B, H, W, D) T, row-strided
  View projections;  // (B, H, W, K·(R + 2N)) T, row-strided; per direction: dt (R), Bmat (N), Cmat (N)
  View dt_weight;    // (K, D, R) T, or absent
  View dt_bias;      // (K, D) S
  View A;            // (K, D, N) S: −exp(A_logs)
  View D;            // (K, D) S
  ScanOrder order = ScanOrder::cross;
  ScanBackend backend = ScanBackend::automatic;
  DirectionRounding direction_rounding = DirectionRounding::none;
  View directions;  // (K, B, H, W, D) S: receives every y_k; absent unless they are observed
  View y;           // (B, H, W, D) S
};

// y = act(LayerNorm(scan)) · gate.
struct SelectiveScan2dNorm {
  SelectiveScan2d scan;  // scan.y: workspace, contents unspecified on return
  LayerNorm norm;        // norm.x is scan.y
};

// y = LayerNorm(scan) · wᵀ + bias + residual, where the device fuses it (Kernels::fuses): norm.y and linear.x are absent.
struct SelectiveScan2dNormLinear {
  SelectiveScan2d scan;  // scan.y: workspace, contents unspecified on return
  LayerNorm norm;        // norm.x is scan.y; without act and gate
  Linear linear;         // linear.residual may be linear.y
};

// A batch of crops, some of which the device decodes from JPEG (kernels/jpeg.h).
struct DecodeJpegs {
  struct Packed {
    int64_t place = 0;               // in y
    std::span<const uint8_t> bytes;  // a JpegImage with its tables, aligned to 8 bytes
  };
  std::span<const Packed> jpegs;  // by place
  View pixels;                    // (B,H,W,3) uint8 on the host: the images at all other places
  View y;                         // (B,H,W,3) uint8
};

// Work that was captured once and can be launched again (a CUDA graph). Must not outlive its Kernels.
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
  bool has_float64() const { return float64_; }  // else float64 is no dtype of any operation
  virtual std::string description() const = 0;   // "Intel(R) Xeon(R) …, 2 threads, AVX3_SPR"

  // --- Memory. allocate throws OutOfMemory; memory is 256-byte aligned and uninitialised.
  virtual void* allocate(size_t bytes) = 0;
  // Waits for queued work that may use `memory`. Null is ignored.
  virtual void release(void* memory) noexcept = 0;
  virtual size_t available_memory() const = 0;  // bytes free on the device now
  // Dense Views of the same dtype and number of elements, each on the host or the device. Ordered with the
  // queued work; if one side is host memory, the copy is complete on return.
  virtual void copy(const View& from, const View& to) = 0;
  // Copies from the host, overlapping the work that was queued since the last upload; that work must not use
  // `to`. Returns as soon as `from` may be changed.
  virtual void upload(const View& from, const View& to) { copy(from, to); }
  // Writes y as upload() does. Returns the places of the JPEGs whose pixels could differ from libjpeg's (numbers
  // out of range, corrupt data): what y holds there is unspecified. Only where decodes_jpegs().
  std::vector<int64_t> decode_jpegs(const DecodeJpegs& op);
  virtual bool decodes_jpegs() const { return false; }
  virtual void synchronize() {}  // returns when all queued work is done
  // Calls `work` and records what it queues instead of running it; null if the device cannot record (CPU).
  virtual std::unique_ptr<CapturedWork> capture(const std::function<void()>& work);
  // Records a time stamp in the queue. elapsed_ms returns the times between successive marks and drops them.
  virtual void mark() = 0;
  virtual std::vector<float> elapsed_ms() = 0;

  // --- Operations.
  // y = (u8 / 255 − mean[c]) / std[c]. pixels (B,H,W,3) uint8; mean, std (3) host float32; y (B,H,W,3) T.
  void normalize(const View& pixels, const float* mean, const float* std, const View& y);
  // y (B,H,W,C) T from x (B,C,H,W) float32.
  void nchw_to_nhwc(const View& x, const View& y);
  // Converts between storage dtypes; both row-strided, same shape.
  void cast(const View& x, const View& y);
  void linear(const Linear& linear);
  void norm_linear(const NormLinear& fused);
  // Whether the device has a kernel for it that is faster than the operations one after the other; only then may it be
  // called.
  virtual bool fuses(const Mlp&) const { return false; }
  virtual bool fuses(const SelectiveScan2dNormLinear&) const { return false; }
  void mlp(const Mlp& mlp);
  void conv2d(const Conv2d& conv);
  void conv2d_norm(const Conv2dNorm& fused);
  void depthwise_conv2d(const DepthwiseConv2d& conv);
  void layer_norm(const LayerNorm& norm);
  void channel_affine(const ChannelAffine& affine);
  void activate(const Activate& activate);
  // y = x + other, same shape or other (1,H,W,C) broadcast over the batch. All T; y may be x.
  void add(const View& x, const View& other, const View& y);
  // softmax over the H·W pixels of each channel. x (B,H,W,C) S, y T or S.
  void softmax_pixels(const View& x, const View& y);
  // y (B, ceil(H/2), ceil(W/2), 4C): channels of pixels (0,0), (1,0), (0,1), (1,1) [row, column] of each 2×2
  // square of x (B,H,W,C), zero beyond the edge.
  void merge_patches(const View& x, const View& y);
  // Mean over the pixels: x (B,H,W,C) T, y (B,C) S.
  void mean_pool(const View& x, const View& y);
  void selective_scan_2d(const SelectiveScan2d& scan);
  void selective_scan_2d_norm(const SelectiveScan2dNorm& fused);
  void selective_scan_2d_norm_linear(const SelectiveScan2dNormLinear& fused);

  // Multiply-accumulates of matrix products, convolutions and scans since construction. Launching captured
  // work does not count again.
  uint64_t multiply_accumulates() const { return macs_; }

 protected:
  explicit Kernels(Device device, bool float64 = false) : device_(device), float64_(float64) {}

  virtual void do_normalize(const View& pixels, const float* mean, const float* std, const View& y) = 0;
  virtual void do_nchw_to_nhwc(const View& x, const View& y) = 0;
  virtual void do_cast(const View& x, const View& y) = 0;
  virtual void do_linear(const Linear& linear) = 0;
  virtual void do_conv2d(const Conv2d& conv) = 0;
  virtual void do_depthwise_conv2d(const DepthwiseConv2d& conv) = 0;
  virtual void do_layer_norm(const LayerNorm& norm) = 0;
  virtual void do_channel_affine(const ChannelAffine& affine) = 0;
  virtual void do_activate(const Activate& activate) = 0;
  virtual void do_add(const View& x, const View& other, const View& y) = 0;
  virtual void do_softmax_pixels(const View& x, const View& y) = 0;
  virtual void do_merge_patches(const View& x, const View& y) = 0;
  virtual void do_mean_pool(const View& x, const View& y) = 0;
  virtual void do_selective_scan_2d(const SelectiveScan2d& scan) = 0;
  virtual std::vector<int64_t> do_decode_jpegs(const DecodeJpegs& op);
  // Fused operations: their two parts one after the other, unless a device overrides them.
  virtual void do_norm_linear(const NormLinear& fused);
  virtual void do_mlp(const Mlp& mlp);
  virtual void do_conv2d_norm(const Conv2dNorm& fused);
  virtual void do_selective_scan_2d_norm(const SelectiveScan2dNorm& fused);
  virtual void do_selective_scan_2d_norm_linear(const SelectiveScan2dNormLinear& fused);

 private:
  // Each checks and counts.
  void check_linear(const Linear& linear);
  void check_layer_norm(const LayerNorm& norm);
  void check_conv2d(const Conv2d& conv);
  void check_scan(const SelectiveScan2d& scan);
  bool is_real(DType dtype) const { return is_storage(dtype) && (float64_ || dtype != DType::float64); }

  Device device_;
  bool float64_;
  uint64_t macs_ = 0;
};

struct KernelOptions {
  int threads = 0;          // CPU threads; 0: all the process may use
  bool allow_tf32 = false;  // CUDA: float32 matrix products through TF32
};

// The fast kernels of a device. MachineError, with the reason, if it cannot be used.
std::unique_ptr<Kernels> make_kernels(Device device, const KernelOptions& options = {});
// The scalar kernels on the CPU: one loop nest per operation, sums in double. The oracle that the fast
// kernels are tested against, and the only ones that have float64. threads 0: all the process may use; the
// bits are the same for any number.
std::unique_ptr<Kernels> make_scalar_kernels(int threads = 1);
// Computes nothing and touches no memory: for sizing the arena and counting multiply-accumulates.
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
