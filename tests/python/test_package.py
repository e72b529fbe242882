"""Of the installed wheel, in an environment without a compiler: python tests/python/test_package.py"""
import pathlib
import subprocess
import sys
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
fails(lambda: model.taps(noise, ["nothing"]), "no such taps: nothing")

command = pathlib.Path(sys.executable).parent / "vmamba-cli"
done = subprocess.run([command, "classify", "-q", "--device", "cpu", CAT], capture_output=True, text=True, check=True)
assert "tabby" in done.stdout
assert subprocess.run([command, "--nonsense"], capture_output=True, check=False).returncode == 2
print(f"vmamba_cli {vmamba_cli.version}: all of it holds")
