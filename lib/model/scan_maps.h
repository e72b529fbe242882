// What one output of a selective scan is made of. Each direction k of a scan is, channel by channel, a product with a lower
// triangular matrix in the direction's order of pixels:
//   y_k[i,d] = Σ_{j ≤ i} M_k[i,j,d] · x[j,d] + D[k,d] · x[i,d]
//   M_k[i,j,d] = Σ_n Cmat[i,n] · exp(A[k,d,n] · Σ_{j < l ≤ i} Δ[l,d]) · Δ[j,d] · Bmat[j,n]
// One row i of it is computed backwards from i in O(pixels · D · N); the matrix is never built.
#pragma once
#include <vector>

#include "kernels/scan_order.h"
#include "lib/model/model_weights.h"

namespace vmamba {

// Over the pixels j of the map, row-major, for one output pixel i.
struct ScanRow {
  std::vector<double> weight;  // mean over channels of M[i,j,d]
  std::vector<double>
      contribution;  // mean over channels of M[i,j,d] · x[j,d], with D · x[i,d] at j = i: sums to the mean of y[i]
  std::vector<double> magnitude;  // mean over channels of the absolute values of these terms
};

struct ScanMaps {
  int64_t height = 0, width = 0;
  std::vector<ScanRow> directions;
  ScanRow merged;  // of the sum of the directions
  // Steps along the sequence after which a state has decayed to 1/e, at the mean Δ of the map: 1 / (|A| · mean Δ), sorted, of
  // every channel and state of a direction.
  std::vector<std::vector<double>> decay;
};

struct ScanInput {
  HostTensor x;            // (H, W, D): the tap op.conv2d of one image
  HostTensor projections;  // (H, W, K·(R + 2N)): the tap op.x_proj
};
// For scans over the whole map (not per line, as the cascade's).
ScanMaps scan_maps(const ScanInput& input, const ScanParameters<double>& parameters, ScanOrder order,
                   int64_t row, int64_t column);

}  // namespace vmamba
