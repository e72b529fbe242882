// SS2D, the selective-scan block (VMamba, arXiv 2401.10166): in_proj → conv2d → act → four-direction
// selective scan → out_norm → out_act → ·z → out_proj, added to the residual stream.
#pragma once
#include "lib/model/forward.h"

namespace vmamba {

// stream (B,H,W,C) += SS2D(norm(stream)).
void ss2d(const Forward& forward, const Config& config, const BlockWeights& block, const View& stream);

}  // namespace vmamba
