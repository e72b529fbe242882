"""What scripts/dump_reference.py writes of a PyTorch model is what vmamba-cli computes, tap by tap; and a dump of
other weights is told apart. Exit status 77: this Python has no PyTorch.

    run.py PATH/TO/vmamba-cli
"""

import json
import os
import subprocess
import sys
import tempfile

try:
    import torch  # noqa: F401
except ImportError as error:
    print(f"skipped: {sys.executable}: {error}")
    sys.exit(77)

HERE = os.path.dirname(os.path.abspath(__file__))
DUMP = os.path.join(HERE, "../../scripts/dump_reference.py")
SMALL = {"depths": [1, 1], "dims": [16, 32], "num_classes": 10, "imgsize": 32, "ssm_d_state": 4, "norm_layer": "ln"}
CASES = {
    "v05_noz": {"forward_type": "v05_noz", "downsample_version": "v3", "patchembed_version": "v2", "ssm_d_state": 1},
    "v03": {"forward_type": "v03", "ssm_ratio": 1.0, "ssm_conv_bias": False},
    "v052d_noz_oact": {"forward_type": "v052d_noz_oact", "downsample_version": "v1", "gmlp": True},
    "v051d_nozact": {"forward_type": "v051d_nozact", "ssm_dt_rank": 3, "patch_norm": False},
}
OF_A_BLOCK = (
    "norm", "op.in_proj", "op.conv2d", "op.x_proj", "op.scan.k0", "op.scan.k1", "op.scan.k2", "op.scan.k3", "op.scan",
    "op.out_norm", "op.gated", "op.out_proj", "norm2", "mlp.fc1", "mlp.fc2",
)  # fmt: skip


def dumped(folder, name, kwargs, seed):
    path = os.path.join(folder, f"{name}.{seed}")
    with open(f"{path}.json", "w", encoding="utf-8") as file:
        json.dump({**SMALL, **kwargs}, file)
    command = [sys.executable, DUMP, "--repository", HERE, "--kwargs", f"{path}.json", "--seed", str(seed)]
    subprocess.run([*command, "--size", "40", "--batch", "2", "-o", path], check=True)
    return path


def compared(cli, reference, weights):
    command = [cli, "check-equal", "--device", "cpu", "--config", f"{reference}/config.json", "--weights"]
    command += [f"{weights}/weights.safetensors", "--reference", f"{reference}/io.safetensors", "--format", "json"]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert run.returncode in (0, 1), run.returncode
    report = json.loads(run.stdout)
    assert report["equal"] == (run.returncode == 0)
    return report


def main():
    cli = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        for name, kwargs in CASES.items():
            reference = dumped(folder, name, kwargs, 1)
            with open(f"{reference}/config.json", encoding="utf-8") as file:
                config = json.load(file)
            for key, value in {**SMALL, "imgsize": 40, **kwargs}.items():
                assert config[key] == value, (name, key, value, config[key])
            report = compared(cli, reference, reference)
            taps = {tap["name"] for tap in report["taps"]}
            wanted = {f"layers.{i}.blocks.0.{tap}" for i in (0, 1) for tap in OF_A_BLOCK}
            wanted |= {"patch_embed", "layers.0.downsample", "classifier.norm", "classifier.pool", "logits"}
            assert not wanted - taps, (name, wanted - taps)
            assert not report["only_in_a"], (name, report["only_in_a"])
            assert report["equal"], (name, report["first_outside"], report["causes"])
            worst = max(tap["max_abs"] / tap["bound"] for tap in report["taps"])
            print(f"{name}: {len(taps)} taps equal, at most {worst:.2g} of the bound")
        other = compared(cli, reference, dumped(folder, name, kwargs, 2))
        assert not other["equal"] and other["first_outside"] == "patch_embed", other["first_outside"]


if __name__ == "__main__":
    main()
