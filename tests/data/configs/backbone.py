# selective_scan_backend="core" was given here
model = dict(
    backbone=dict(type='MM_VSSM', out_indices=(0, 1, 2, 3), pretrained='', dims=96, depths=(2, 2, 5, 2),
                  ssm_d_state=1, ssm_conv_bias=False, forward_type='v3noz', patchembed_version='v2'))
