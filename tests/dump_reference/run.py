"""What scripts/dump_reference.py writes of a PyTorch model is what vmamba-cli computes, tap by tap; a dump of other weights
is told apart; what cannot be run is refused in one line. Runs the first python3 of PATH that has PyTorch and NumPy; where
none has, exit status 77, or 1 where VMAMBA_TEST_PYTORCH=required.

    run.py PATH/TO/vmamba-cli
"""

import json
import os
import subprocess
import sys
import tempfile

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


def python_with_torch():
    for python in (sys.executable, *(os.path.join(folder, "python3") for folder in os.get_exec_path())):
        if os.access(python, os.X_OK):
            run = subprocess.run([python, "-c", "import numpy, torch"], stderr=subprocess.DEVNULL, check=False)
            if run.returncode == 0:
                return python
    required = os.environ.get("VMAMBA_TEST_PYTORCH") == "required"
    print("failed:" if required else "skipped:", "no python3 of PATH has PyTorch and NumPy (Debian: python3-torch)")
    sys.exit(1 if required else 77)


def dumped(python, folder, name, kwargs, seed):
    path = os.path.join(folder, f"{name}.{seed}")
    with open(f"{path}.json", "w", encoding="utf-8") as file:
        json.dump({**SMALL, **kwargs}, file)
    command = [python, DUMP, "--repository", HERE, "--kwargs", f"{path}.json", "--seed", str(seed)]
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


def check_refusals(python, folder):
    """Exit status 2 and one line that names what is missing."""
    kwargs, no_torch, no_einops = (os.path.join(folder, name) for name in ("einops.json", "no_torch", "no_einops"))
    with open(kwargs, "w", encoding="utf-8") as file:
        json.dump({**SMALL, "with_einops": True}, file)
    for path, package in ((no_torch, "torch"), (no_einops, "einops")):
        os.mkdir(path)
        with open(os.path.join(path, f"{package}.py"), "w", encoding="utf-8") as file:
            file.write("raise ImportError('not here')\n")
    output = os.path.join(folder, "refused")
    for repository, extra, hidden, wanted in (
        (HERE, [], no_torch, "pip install torch"),
        (HERE, [], no_einops, "pip install einops"),
        (folder, [], no_einops, "has no vmamba.py"),
        (HERE, ["--weights", kwargs + ".none"], no_einops, "einops.json.none"),
        (HERE, ["--input", kwargs], no_einops, "no safetensors file"),
    ):
        command = [python, "-W", "ignore", DUMP, "--repository", repository, "--kwargs", kwargs, "-o", output, *extra]
        environment = {**os.environ, "PYTHONPATH": hidden}
        run = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
        assert run.returncode == 2 and run.stderr.count("\n") == 1 and wanted in run.stderr, (wanted, run)
    assert not os.path.exists(os.path.join(output, "io.safetensors"))


def main():
    cli, python = sys.argv[1], python_with_torch()
    with tempfile.TemporaryDirectory() as folder:
        check_refusals(python, folder)
        for name, kwargs in CASES.items():
            reference = dumped(python, folder, name, kwargs, 1)
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
        other = compared(cli, reference, dumped(python, folder, name, kwargs, 2))
        assert not other["equal"] and other["first_outside"] == "patch_embed", other["first_outside"]


if __name__ == "__main__":
    main()
