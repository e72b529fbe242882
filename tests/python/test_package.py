"""The Python module as it is installed (python tests/python/test_package.py, where the wheel is), or as run.py lays it out.
Pillow and PyTorch are used where they are."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

import numpy as np

import vmamba_cli

DATA = pathlib.Path(__file__).parent.parent / "data"
CAT, COFFEE = DATA / "chelsea.png", DATA / "coffee.png"


def fails(call, text):
    try:
        call()
    except vmamba_cli.InputError as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no error: {text}")


model = vmamba_cli.Model(device="cpu")
assert model.description["dtype"] == "float32" and model.classes == 200
best = model.classify(CAT)[0]
assert best[0].label == "tabby" and abs(best[0].probability - 0.8949) < 1e-4 and len(best) == 5, best

both = model.logits([CAT, str(COFFEE)])
assert both.shape == (2, 200)
assert np.array_equal(model.logits([CAT.read_bytes(), COFFEE.read_bytes()]), both)
try:
    from PIL import Image
except ImportError:
    print("no Pillow: arrays are not compared with files")
else:
    pictures = [Image.open(CAT), Image.open(COFFEE)]
    assert np.array_equal(model.logits(pictures), both)
    arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
    assert np.array_equal(model.logits(arrays), both)
    assert np.array_equal(model.logits(arrays[0][::-1][::-1]), model.logits(CAT))
    assert np.array_equal(model.logits(np.asfortranarray(arrays[0])), model.logits(CAT))
    assert not np.array_equal(model.logits(arrays[0][::-1]), model.logits(CAT))

noise = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
taps = model.taps(noise)
assert np.array_equal(taps["logits"], model.logits(noise)) and len(taps) > 20
assert np.array_equal(model.features(noise), taps["classifier.pool"].reshape(2, -1))

results = [None] * 4
threads = [threading.Thread(target=lambda i=i: results.__setitem__(i, model.logits(noise))) for i in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert all(np.array_equal(result, taps["logits"]) for result in results)

fails(lambda: vmamba_cli.Model("/nowhere.pth"), "/nowhere.pth: no such weights file")
fails(lambda: vmamba_cli.Model(device="tpu"), "device tpu: unknown")
fails(lambda: model.logits(DATA / "images" / "README.md"), "not an image")
fails(lambda: model.logits(noise[:, :2]), "wanted (batch, 3, height, width)")
fails(lambda: model.logits(noise[0]), "wanted paths")
fails(lambda: model.logits([]), "count")
fails(lambda: model.logits(np.zeros((9, 9, 4), np.uint8)), "wanted paths")
fails(lambda: model.taps(noise, ["nothing"]), "no such taps: nothing")
fails(lambda: vmamba_cli.Model("a\0b"), "weights: has a null character")
fails(lambda: vmamba_cli.Model(threads=1 << 32), "threads: wanted 0")
assert list(model.taps(noise, "logits")) == ["logits"]

command = [sys.executable, "-c", "import vmamba_cli; vmamba_cli.main()"]
if "PYTHONPATH" not in os.environ:
    command = [pathlib.Path(sys.executable).parent / "vmamba-cli"]
done = subprocess.run([*command, "classify", "-q", "--device", "cpu", CAT], capture_output=True, text=True, check=True)
assert "tabby" in done.stdout
assert subprocess.run([*command, "--nonsense"], capture_output=True, check=False).returncode == 2

# A PyTorch module against this package's run of it, as in a test suite.
try:
    import torch
except ImportError:
    print("no PyTorch: check_equal is not tried")
else:
    package = pathlib.Path(vmamba_cli.__file__).parent
    spec = importlib.util.spec_from_file_location("dump_reference", package / "share" / "vmamba-cli" / "dump_reference.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    kwargs = {"depths": [1, 1], "dims": [16, 32], "num_classes": 10, "imgsize": 32, "ssm_d_state": 4, "norm_layer": "ln",
              "forward_type": "v03"}  # fmt: skip
    torch.manual_seed(1)
    module = reference.build(str(DATA.parent / "dump_reference"), kwargs).train()
    module.classifier.eval()
    cpu = {"size": 32, "arguments": ["--device", "cpu"]}
    assert "taps within tolerance" in vmamba_cli.check_equal(module, batch=2, **cpu)
    assert module.training and not module.classifier.training
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.safetensors"
        reference.save_safetensors(weights, reference.weights_of(module))
        vmamba_cli.check_equal(module, weights, **cpu)
        with torch.no_grad():
            module.layers[1].blocks[0].op.Ds += 0.5
        try:
            vmamba_cli.check_equal(module, weights, **cpu)
        except AssertionError as difference:
            assert "layers.1.blocks.0.op.scan" in str(difference), difference
        else:
            raise AssertionError("a changed module passed")
    fails(lambda: vmamba_cli.check_equal(torch.nn.Linear(2, 2)), "has no patch_embed")
    fails(lambda: vmamba_cli.check_equal(module, "/nowhere.pth", **cpu), "/nowhere.pth: no such weights file")
print(f"vmamba_cli {vmamba_cli.__version__}: all of it holds")
