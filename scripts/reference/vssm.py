"""VMamba's VSSM in plain PyTorch (1.13 or newer): the reference for tests, timing and training.

    x (B, 3, H, W) -> patch embed -> stages of blocks, downsampling between them -> head -> logits

Feature maps are NHWC for every norm_layer; names and results are the same.
Notation: B batch, H W map, L = H*W, C channels of the stage, D = d_inner, N = d_state,
R = dt_rank, K = 4 scan directions (k0 rows, k1 columns, k2 and k3 the same backwards).
"""

import json
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

import tensorfile

DEFAULTS = {
    "patch_size": 4,
    "in_chans": 3,
    "num_classes": 1000,
    "depths": [2, 2, 9, 2],
    "dims": [96, 192, 384, 768],
    "ssm_d_state": 16,
    "ssm_ratio": 2.0,
    "ssm_dt_rank": "auto",
    "ssm_act_layer": "silu",
    "ssm_conv": 3,
    "ssm_conv_bias": True,
    "ssm_init": "v0",
    "forward_type": "v2",
    "mlp_ratio": 4.0,
    "mlp_act_layer": "gelu",
    "gmlp": False,
    "patch_norm": True,
    "norm_layer": "ln",
    "downsample_version": "v2",
    "patchembed_version": "v1",
    "posembed": False,
    "imgsize": 224,
}
BASES = ("v0", "v0seq", "v01", "v02", "v03", "v04", "v05", "v2", "v3", "v051d", "v052d", "v052dc", "m0")
POSTFIXES = ("_no32", "_oact", "_noz", "_nozact")
OUT_NORMS = ("_onnone", "_ondwconv3", "_oncnorm", "_onsoftmax", "_onsigmoid")
ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu, "sigmoid": torch.sigmoid}


def parse_forward_type(name):
    """'v05_noz' -> (base, set of postfixes, out_norm); postfixes are stripped from the end, in order."""
    rest, found, out_norm = name, set(), "layernorm"
    for postfix in POSTFIXES:
        if rest.endswith(postfix):
            rest = rest[: -len(postfix)]
            found.add(postfix[1:])
    for postfix in OUT_NORMS:
        if rest.endswith(postfix):
            rest, out_norm = rest[: -len(postfix)], postfix[3:]
    if rest not in BASES:
        raise ValueError(f"forward_type '{name}': base '{rest}' is not one of {', '.join(BASES)}")
    return rest, found, out_norm


# --- The selective scan: h <- exp(delta A) h + delta B x, y = sum over states of C h, + D x.


def scan_lines(a, b, step_dim, backwards):
    """In place: b[t] <- a[t] b[t-1] + b[t] along the whole path through a map; a is destroyed.

    a, b (B, H, W, N, D). The path runs along step_dim inside a line, then on to the next line. All
    lines advance together; then each line's last state is carried into the next.
    """
    order = -1 if backwards else 1
    a_steps, b_steps = a.unbind(step_dim)[::order], b.unbind(step_dim)[::order]
    for t in range(1, len(b_steps)):
        torch.addcmul(b_steps[t], a_steps[t], b_steps[t - 1], out=b_steps[t])
        a_steps[t].mul_(a_steps[t - 1])
    a_ends, b_ends = a_steps[-1].unbind(1)[::order], b_steps[-1].unbind(1)[::order]
    if len(b_ends) == 1:
        return
    states = [torch.zeros_like(b_ends[0])]
    for a_end, b_end in zip(a_ends[:-1], b_ends[:-1]):
        states.append(torch.addcmul(b_end, a_end, states[-1]))
    b.addcmul_(a, torch.stack(states[::order], dim=1).unsqueeze(step_dim))


# Directions of a scan order: (steps run along, backwards) for each k.
DIRECTIONS = {
    "cross": ((2, False), (1, False), (2, True), (1, True)),
    "unidi": ((2, False), (2, False), (2, False), (2, False)),
    "bidi": ((2, False), (2, False), (2, True), (2, True)),
}


def split_projections(projections, K, R, N):
    """(B, H, W, K(R+2N)) -> dt (B, H, W, K, R), Bmat and Cmat (B, H, W, K, N)"""
    return projections.unflatten(-1, (K, R + 2 * N)).split([R, N, N], dim=-1)


def selective_scan_2d(x, projections, dt_weight, dt_bias, A, Ds, order="cross"):
    """x (B, H, W, D), projections (B, H, W, K(R+2N)), dt_weight (K, D, R), dt_bias (K, D),
    A (K, D, N), Ds (K, D) -> the sum of the K directions (B, H, W, D). Not differentiable."""
    K, D, R = dt_weight.shape
    N = A.shape[-1]
    dt, Bmat, Cmat = split_projections(projections, K, R, N)
    y = x * Ds.sum(0)
    for k, (step_dim, backwards) in enumerate(DIRECTIONS[order]):
        delta = F.softplus(F.linear(dt[..., k, :], dt_weight[k], dt_bias[k])).unsqueeze(3)
        a = torch.mul(delta, A[k].t().contiguous()).exp_()
        b = delta.mul_(x.unsqueeze(3)) * Bmat[..., k, :, None]
        scan_lines(a, b, step_dim, backwards)
        if N == 1:
            y.addcmul_(b[..., 0, :], Cmat[..., k, :])
        else:
            y += torch.matmul(Cmat[..., k, None, :], b)[..., 0, :]
    return y


def path(x, step_dim, backwards):
    """(B, H, W, ...) -> (B, L, ...) in the order in which a direction visits the pixels"""
    x = (x if step_dim == 2 else x.transpose(1, 2)).flatten(1, 2)
    return x.flip(1) if backwards else x


def unpath(y, H, W, step_dim, backwards):
    y = y.flip(1) if backwards else y
    return y.unflatten(1, (H, W)) if step_dim == 2 else y.unflatten(1, (W, H)).transpose(1, 2)


def sequential_scan(x, delta, A, Bmat, Cmat):
    """The recurrence, one position after the other: x, delta (B, L, D), A (D, N), Bmat, Cmat (B, L, N)"""
    h, ys = x.new_zeros(x.shape[0], x.shape[2], A.shape[1]), []
    for t in range(x.shape[1]):
        step = delta[:, t, :, None]
        h = torch.exp(step * A) * h + step * Bmat[:, t, None, :] * x[:, t, :, None]
        ys.append((h * Cmat[:, t, None, :]).sum(-1))
    return torch.stack(ys, dim=1)


def sequential_scan_2d(x, projections, dt_weight, dt_bias, A, Ds, order="cross"):
    """selective_scan_2d by definition: slow, differentiable."""
    K, D, R = dt_weight.shape
    H, W = x.shape[1:3]
    dt, Bmat, Cmat = split_projections(projections, K, R, A.shape[-1])
    y = x * Ds.sum(0)
    for k, (step_dim, backwards) in enumerate(DIRECTIONS[order]):
        delta = F.softplus(F.linear(dt[..., k, :], dt_weight[k], dt_bias[k]))
        parts = [path(v, step_dim, backwards) for v in (x, delta, Bmat[..., k, :], Cmat[..., k, :])]
        y = y + unpath(sequential_scan(parts[0], parts[1], A[k], *parts[2:]), H, W, step_dim, backwards)
    return y


def cascade_scan_2d(x, x_proj_weight, dt_weight, dt_bias, A, Ds):
    """Rows with k0 and k1, then columns with k2 and k3. The backward scan's output is added without
    being turned round again: that is what the published models computed."""
    K, D, R = dt_weight.shape
    N = A.shape[-1]

    def lines(x, k):  # (B', L, D) -> (B', L, D)
        dt, Bmat, Cmat = F.linear(x, x_proj_weight[k]).split([R, N, N], dim=-1)
        delta = F.softplus(F.linear(dt, dt_weight[k], dt_bias[k]))
        return sequential_scan(x, delta, A[k], Bmat, Cmat) + Ds[k] * x

    for first in (0, 2):
        x = F.layer_norm(x, (D,))
        rows = x.flatten(0, 1)
        y = lines(rows, first) + lines(rows.flip(1), first + 1)
        x = y.unflatten(0, x.shape[:2]).transpose(1, 2)
    return x


# --- Modules; every map is (B, H, W, channels).


def conv_nhwc(conv, x):
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def depthwise_act(x, conv, act):
    return act(conv_nhwc(conv, x))


class BatchNorm(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x.flatten(0, -2)).view(x.shape)


def make_norm(kind, channels):
    kind = kind.lower()
    if kind not in ("ln", "ln2d", "bn"):
        raise ValueError(f"norm_layer '{kind}' is not one of ln, ln2d, bn")
    return BatchNorm(channels) if kind == "bn" else nn.LayerNorm(channels)


def depthwise_conv(channels, kernel, bias):
    return nn.Conv2d(channels, channels, kernel, padding=(kernel - 1) // 2, groups=channels, bias=bias)


class SS2D(nn.Module):
    def __init__(self, channels, config, scan, depthwise):
        super().__init__()
        base, postfixes, self.out_norm_kind = parse_forward_type(config["forward_type"])
        vanilla = base in ("v0", "v0seq")
        self.scan, self.depthwise = scan, depthwise
        self.order = {"v051d": "unidi", "v052d": "bidi", "v052dc": "cascade"}.get(base, "cross")
        self.has_z, self.z_act = "noz" not in postfixes, "nozact" not in postfixes
        self.out_act = F.gelu if "oact" in postfixes else nn.Identity()
        self.act = F.silu if vanilla else ACTIVATIONS[config["ssm_act_layer"]]
        D, N, K = int(config["ssm_ratio"] * channels), config["ssm_d_state"], 4
        R = math.ceil(channels / 16) if config["ssm_dt_rank"] == "auto" else config["ssm_dt_rank"]
        self.in_proj = nn.Linear(channels, 2 * D if self.has_z else D, bias=False)
        kernel, bias = (3, True) if vanilla else (config["ssm_conv"], config["ssm_conv_bias"])
        self.conv2d = depthwise_conv(D, kernel, bias) if kernel > 1 else None
        self.heads = base == "m0"
        if self.heads and kernel > 1:
            self.conv2d = nn.ModuleDict({"1": self.conv2d})
        self.x_proj_weight = nn.Parameter(torch.empty(K, R + 2 * N, D).uniform_(-1, 1) / math.sqrt(D))
        # softplus(bias) is log-uniform in [0.001, 0.1].
        start = torch.exp(torch.rand(K, R if self.heads else D) * math.log(100) + math.log(0.001)).clamp(min=1e-4)
        self.dt_projs_bias = nn.Parameter(start + torch.log(-torch.expm1(-start)))
        if self.heads:
            self.A_logs = nn.Parameter(torch.zeros(K, R))
            self.Ds = nn.Parameter(torch.ones(K, R, D // R))
        else:
            self.dt_projs_weight = nn.Parameter(torch.empty(K, D, R).uniform_(-1, 1) / math.sqrt(R))
            self.A_logs = nn.Parameter(torch.arange(1.0, N + 1).log().repeat(K * D, 1))
            self.Ds = nn.Parameter(torch.ones(K * D))
        if self.out_norm_kind == "layernorm":
            self.out_norm = nn.LayerNorm(D)
        elif self.out_norm_kind == "cnorm":
            self.out_norm = nn.ModuleDict({"0": nn.LayerNorm(D), "2": depthwise_conv(D, 3, False)})
        elif self.out_norm_kind == "dwconv3":
            self.out_norm = nn.ModuleDict({"1": depthwise_conv(D, 3, False)})
        self.out_proj = nn.Linear(D, channels, bias=False)

    def normalise(self, y):
        kind = self.out_norm_kind
        if kind == "layernorm":
            return self.out_norm(y)
        if kind == "cnorm":
            return conv_nhwc(self.out_norm["2"], self.out_norm["0"](y))
        if kind == "dwconv3":
            return conv_nhwc(self.out_norm["1"], y)
        if kind == "softmax":
            return y.flatten(1, 2).softmax(dim=1).view(y.shape)
        return y.sigmoid() if kind == "sigmoid" else y

    def scan_parameters(self):
        """-> dt_weight (K, D, R), dt_bias (K, D), A (K, D, N), Ds (K, D). With heads (Mamba-2), R of them,
        the channels of a head share its dt, bias and A."""
        A = -torch.exp(self.A_logs.float())
        if not self.heads:
            K, D, _ = self.dt_projs_weight.shape
            return self.dt_projs_weight, self.dt_projs_bias, A.view(K, D, -1), self.Ds.view(K, D)
        K, R, P = self.Ds.shape
        N = (self.x_proj_weight.shape[1] - R) // 2
        weight = torch.eye(R).to(self.Ds).repeat_interleave(P, 0).expand(K, R * P, R)
        A = A.repeat_interleave(P, 1)[:, :, None].expand(K, R * P, N)
        return weight, self.dt_projs_bias.repeat_interleave(P, 1), A, self.Ds.flatten(1)

    def forward(self, x):
        x = self.in_proj(x)
        if self.has_z:
            x, z = x.chunk(2, dim=-1)
            z = self.act(z) if self.z_act else z
        conv = self.conv2d["1"] if isinstance(self.conv2d, nn.ModuleDict) else self.conv2d
        x = self.depthwise(x, conv, self.act) if conv is not None else self.act(x)
        if self.order == "cascade":
            y = cascade_scan_2d(x, self.x_proj_weight, *self.scan_parameters())
        else:
            projections = F.linear(x, self.x_proj_weight.flatten(0, 1))
            y = self.scan(x, projections, *self.scan_parameters(), self.order)
        y = self.out_act(self.normalise(y))
        return self.out_proj(y * z if self.has_z else y)


class Mlp(nn.Module):
    def __init__(self, channels, hidden, act, gated):
        super().__init__()
        self.act, self.gated = ACTIVATIONS[act], gated
        self.fc1 = nn.Linear(channels, 2 * hidden if gated else hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x):
        x = self.fc1(x)
        if self.gated:
            x, z = x.chunk(2, dim=-1)
            return self.fc2(x * self.act(z))
        return self.fc2(self.act(x))


class Block(nn.Module):
    def __init__(self, channels, config, scan, depthwise):
        super().__init__()
        if config["ssm_ratio"] > 0:
            self.norm = make_norm(config["norm_layer"], channels)
            self.op = SS2D(channels, config, scan, depthwise)
        if config["mlp_ratio"] > 0:
            self.norm2 = make_norm(config["norm_layer"], channels)
            hidden = int(channels * config["mlp_ratio"])
            self.mlp = Mlp(channels, hidden, config["mlp_act_layer"], config["gmlp"])

    def forward(self, x, keep=None):
        """keep (2, B): by how much each image's two branches are scaled (drop path), in training"""
        if hasattr(self, "op"):
            y = self.op(self.norm(x))
            x = x + (y if keep is None else y * keep[0].view(-1, 1, 1, 1))
        if hasattr(self, "mlp"):
            y = self.mlp(self.norm2(x))
            x = x + (y if keep is None else y * keep[1].view(-1, 1, 1, 1))
        return x


class PatchEmbed(nn.ModuleDict):
    def __init__(self, config, channels):
        size, chans, norm = config["patch_size"], config["in_chans"], config["norm_layer"]
        parts = {}
        if config["patchembed_version"] == "v1":
            parts["0"] = nn.Conv2d(chans, channels, size, stride=size)
            norms = {"2": channels}
        else:
            stride = size // 2
            shape = {"kernel_size": stride + 1, "stride": stride, "padding": 1}
            parts["0"] = nn.Conv2d(chans, channels // 2, **shape)
            parts["5"] = nn.Conv2d(channels // 2, channels, **shape)
            norms = {"2": channels // 2, "7": channels}
        if config["patch_norm"]:
            parts.update({name: make_norm(norm, width) for name, width in norms.items()})
        super().__init__(parts)

    def forward(self, x):
        for name in ("0", "2", "gelu", "5", "7"):
            if name == "gelu":
                x = F.gelu(x) if "5" in self else x
            elif name in self:
                x = conv_nhwc(self[name], x) if isinstance(self[name], nn.Conv2d) else self[name](x)
        return x


class Downsample(nn.ModuleDict):
    """v2, v3: a convolution and a norm"""

    def __init__(self, version, channels, out, norm):
        shape = {"v2": {"kernel_size": 2}, "v3": {"kernel_size": 3, "padding": 1}}[version]
        super().__init__({"1": nn.Conv2d(channels, out, stride=2, **shape), "3": make_norm(norm, out)})

    def forward(self, x):
        return self["3"](conv_nhwc(self["1"], x))


class PatchMerging(nn.Module):
    """v1: four neighbours side by side, a norm, a Linear to 2C"""

    def __init__(self, channels, norm):
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = make_norm(norm, 4 * channels)

    def forward(self, x):
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=-1)
        return self.reduction(self.norm(x))


class VSSM(nn.Module):
    """config: the constructor's keywords by name (DEFAULTS); scan, depthwise: other implementations
    of selective_scan_2d and depthwise_act."""

    def __init__(self, config, scan=selective_scan_2d, depthwise=depthwise_act):
        super().__init__()
        config = {**DEFAULTS, **config}
        if config["patchembed_version"] not in ("v1", "v2"):
            raise ValueError(f"patchembed_version '{config['patchembed_version']}' is not v1 or v2")
        depths, dims = config["depths"], config["dims"]
        if isinstance(dims, int):
            dims = [dims * 2**i for i in range(len(depths))]
        self.config = config
        self.patch_embed = PatchEmbed(config, dims[0])
        if config["posembed"]:
            side = config["imgsize"] // config["patch_size"]
            self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, dims[0], side, side), std=0.02))
        self.layers = nn.ModuleList()
        for i, (depth, channels) in enumerate(zip(depths, dims)):
            stage = nn.Module()
            stage.blocks = nn.ModuleList(Block(channels, config, scan, depthwise) for _ in range(depth))
            stage.downsample = None
            if i + 1 < len(depths):
                version, norm = config["downsample_version"], config["norm_layer"]
                merging = version == "v1"
                stage.downsample = (
                    PatchMerging(channels, norm) if merging else Downsample(version, channels, dims[i + 1], norm)
                )
            self.layers.append(stage)
        self.classifier = nn.Module()
        self.classifier.norm = make_norm(config["norm_layer"], dims[-1])
        self.classifier.head = nn.Linear(dims[-1], config["num_classes"])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x, taps=None, keep=None):
        """taps: a dict that receives the features by name; keep (blocks, 2, B): see Block"""
        tap = taps.__setitem__ if taps is not None else lambda name, value: None
        x = self.patch_embed(x.permute(0, 2, 3, 1))
        tap("patch_embed", x)
        if self.config["posembed"]:
            x = x + self.positions(x.shape[1:3])
        number = 0
        for i, stage in enumerate(self.layers):
            for j, block in enumerate(stage.blocks):
                x = block(x, None if keep is None else keep[number])
                number += 1
                tap(f"layers.{i}.blocks.{j}", x)
            tap(f"layers.{i}.blocks", x)
            if stage.downsample is not None:
                x = stage.downsample(x)
        x = self.classifier.norm(x).mean(dim=(1, 2))
        return self.classifier.head(x)

    def positions(self, size):
        table = self.pos_embed
        if table.shape[2:] != size:
            table = F.interpolate(table, size=tuple(size), mode="bicubic", align_corners=False)
        return table.permute(0, 2, 3, 1)

    def load_tensors(self, tensors):
        """Strict; accepts old names, 1x1 convolutions for Linears, and a pos_embed of another size."""
        tensors, own = {current_name(k): v.float() for k, v in tensors.items()}, self.state_dict()
        for name, tensor in tensors.items():
            if name == "pos_embed":
                self.pos_embed = nn.Parameter(tensor)
            elif name in own and tensor.dim() == 4 and own[name].dim() == 2:
                tensors[name] = tensor.flatten(1)
        skip = "num_batches_tracked"
        tensors.update({k: v for k, v in own.items() if k.endswith(skip)})
        self.load_state_dict(tensors)
        return self


def current_name(name):
    """Names of older checkpoints, brought up to date."""
    for old, new in (("norm.", "classifier.norm."), ("head.", "classifier.head.")):
        if name.startswith(old):
            name = new + name[len(old) :]
    for old, new in (
        ("patch_embed.proj.", "patch_embed.0."),
        ("patch_embed.norm.", "patch_embed.2."),
        (".ln_1.", ".norm."),
        (".self_attention.", ".op."),
        ("x_proj.weight", "x_proj_weight"),
        ("dt_projs.weight", "dt_projs_weight"),
    ):
        name = name.replace(old, new)
    return name


def load_model(config_path, weights_path=None, **implementations):
    with open(config_path) as file:
        model = VSSM(json.load(file), **implementations)
    if weights_path is not None:
        model.load_tensors(tensorfile.load(weights_path))
    return model.eval()
