#!/usr/bin/env python3
"""Runs eval and classify over a data set with broken images while processes are killed, disks fill up, reads fail and
files change; after each fault the run is resumed, and the results are compared with those of an undisturbed run.

    soak.py CLI MODEL_FOLDER IMAGE_FOLDER MINUTES [IMAGES]

MODEL_FOLDER has config.json and weights.safetensors, IMAGE_FOLDER the images that the data set is made of. Prints a table;
exit status 1 if anything was lost, doubled, half-written or wrong, or if a process ended in an undocumented way.
"""
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

CLASSES = 10
BROKEN = 0.05


def breakages(good):
    """Twenty ways to break an image, as functions of (path, bytes)."""
    def write(path, data):
        path.write_bytes(data)

    def flipped(data, share):
        data = bytearray(data)
        for _ in range(max(1, int(len(data) * share))):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        return bytes(data)

    def link(path, target):
        path.symlink_to(target)

    return [
        lambda p, d: write(p, b""),
        lambda p, d: write(p, d[:1]),
        lambda p, d: write(p, d[:10]),
        lambda p, d: write(p, d[:len(d) // 4]),
        lambda p, d: write(p, d[:len(d) // 2]),
        lambda p, d: write(p, d[:-20]),
        lambda p, d: write(p, b"\0" * len(d)),
        lambda p, d: write(p, d[:64] + b"\0" * (len(d) - 64)),
        lambda p, d: write(p, d[:64] + b"\xff" * (len(d) - 64)),
        lambda p, d: write(p, b"not an image\n"),
        lambda p, d: write(p, b"<html>404</html>"),
        lambda p, d: write(p, os.urandom(len(d))),
        lambda p, d: write(p, d[2:]),
        lambda p, d: write(p, d[:2] + os.urandom(200) + d[202:]),
        lambda p, d: write(p, flipped(d, 0.5)),
        lambda p, d: write(p, b"\x1f\x8b" + d),
        lambda p, d: write(p, b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + b"\x01\x11\x00" * 3),
        lambda p, d: link(p, "nowhere.jpg"),
        lambda p, d: link(p, p.name),
        lambda p, d: write(p, b"P6 60000 60000 255\n"),
    ]


def make_data(folder, sources, count):
    ways = breakages(sources)
    broken = 0
    for i in range(count):
        source = sources[i % len(sources)]
        path = folder / f"class{i % CLASSES}" / f"{i:06}{source.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if random.random() < BROKEN:
            ways[broken % len(ways)](path, source.read_bytes())
            broken += 1
        else:
            shutil.copyfile(source, path)
    return broken


class Soak:
    def __init__(self, cli, model, work):
        self.cli, self.work = cli, work
        self.images = work / "images"
        self.model = ["--config", str(model / "config.json"), "--weights", str(model / "weights.safetensors")]
        self.counts = collections.Counter()
        self.problems = []

    def problem(self, kind, text):
        self.counts[kind] += 1
        if len(self.problems) < 30:
            self.problems.append(f"{kind}: {text}")

    def eval_command(self, results):
        return [self.cli, "-q", "eval", str(self.images), *self.model, "--device", "cpu", "--batch-size", "16",
                "--results", str(results)]

    def start(self, command, **more):
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)

    def end(self, process, scenario, allowed=(0, 1, 2, 3)):
        out, err = process.communicate()
        if process.returncode not in allowed:
            self.problem("bad end", f"{scenario}: exit {process.returncode}: {err[-300:]!r}")
        for word in (b"unexpected error", b"AddressSanitizer", b"terminate called", b"core dumped"):
            if word in err:
                self.problem("bad end", f"{scenario}: {err[-300:]!r}")
        return process.returncode, out, err

    def read_results(self, path, scenario, complete):
        """key -> result without the order; the last line may be cut off only in an interrupted run."""
        found = {}
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        tail = lines.pop()
        if complete and tail:
            self.problem("half-written", f"{scenario}: {tail[:100]!r}")
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                self.problem("half-written", f"{scenario}: {line[:100]!r}")
                continue
            if "file" not in entry:
                continue
            key = entry["file"]
            if "error" not in entry:
                if key in found:
                    self.problem("doubled", f"{scenario}: {key}")
                found[key] = json.dumps(entry, sort_keys=True)
        return found

    def finish(self, results, scenario, wanted):
        """Resumes until the end, and compares."""
        code, _, err = self.end(self.start(self.eval_command(results)), scenario)
        got = self.read_results(results, scenario, True)
        for key in wanted.keys() - got.keys():
            self.problem("lost", f"{scenario}: {key} (exit {code}, {err[-200:]!r})")
        for key in got.keys() & wanted.keys():
            if got[key] != wanted[key]:
                self.problem("wrong", f"{scenario}: {got[key]} instead of {wanted[key]}")
        for key in got.keys() - wanted.keys():
            self.problem("wrong", f"{scenario}: {key} should not be readable")
        self.counts["images"] += len(got)
        results.unlink(missing_ok=True)
        left = [p.name for p in self.work.iterdir() if ".part" in p.name or p.name.startswith(".vmamba")]
        if left:
            self.problem("left over", f"{scenario}: {left}")
            for name in left:
                (self.work / name).unlink()


def main():
    cli, model, sources, minutes = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), float(sys.argv[4])
    count = int(sys.argv[5]) if len(sys.argv) > 5 else 10000
    seed = int(os.environ.get("VMAMBA_SOAK_SEED", "0"))
    random.seed(seed)
    work = pathlib.Path(tempfile.mkdtemp(prefix="vmamba_soak_"))
    soak = Soak(cli, model, work)
    eio = work / "eio.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", str(pathlib.Path(__file__).with_name("eio.c")), "-o", str(eio), "-ldl"],
                   check=True)
    good = sorted(p for p in sources.iterdir() if p.suffix in (".jpg", ".png", ".webp", ".bmp", ".gif") and
                  p.stat().st_size < 30000 and subprocess.run(
                      [cli, "-q", "classify", str(p), *soak.model, "--device", "cpu"], capture_output=True).returncode == 0)
    broken = make_data(soak.images, good, count)
    print(f"{count} images from {len(good)} files, {broken} broken; seed {seed}", flush=True)

    reference = work / "reference.jsonl"
    start = time.monotonic()
    soak.end(soak.start(soak.eval_command(reference)), "reference")
    wanted = soak.read_results(reference, "reference", True)
    whole = time.monotonic() - start
    print(f"undisturbed: {len(wanted)} answers in {whole:.1f} s", flush=True)

    def kills(name, results):
        for _ in range(random.randint(1, 24)):
            process = soak.start(soak.eval_command(results))
            time.sleep(random.random() ** 2 * whole / 6 + 0.02)
            process.send_signal(name)
            code, _, _ = soak.end(process, name.name, (0, 1, -name))
            if code != -name:
                return  # it was done
            soak.counts["kills"] += 1
            soak.read_results(results, name.name, False)

    def full_disk(results):
        limit = random.randint(1000, 400000)
        process = soak.start(["prlimit", f"--fsize={limit}", *soak.eval_command(results)])
        soak.end(process, "full disk", (0, 1, 3, -signal.SIGXFSZ))

    def failing_reads(results):
        environment = dict(os.environ, LD_PRELOAD=str(eio), VMAMBA_EIO_EVERY=str(random.randint(20, 200)))
        soak.end(soak.start(soak.eval_command(results), env=environment), "EIO", (1,))

    def changing_files(results):
        stop = threading.Event()
        files = [p for p in random.sample(sorted(soak.images.glob("*/*")), 40) if p.is_file() and not p.is_symlink()]

        def change():
            while not stop.is_set():
                path = random.choice(files)
                data = path.read_bytes()
                away = path.with_name("." + path.name)
                way = random.randrange(3)
                if way == 0:
                    path.rename(away)
                    time.sleep(0.01)
                    away.rename(path)
                    continue
                path.write_bytes(data[:len(data) // 2] if way == 1 else data + data)
                time.sleep(0.01)
                away.write_bytes(data)
                away.rename(path)

        thread = threading.Thread(target=change)
        thread.start()
        soak.end(soak.start(soak.eval_command(results)), "changing files", (0, 1))
        stop.set()
        thread.join()
        # A file that had grown has its image all the same; one that was cut off has none: only the resumed run tells.

    def truncated_weights(results):
        weights = work / "weights.safetensors"
        shutil.copyfile(model / "weights.safetensors", weights)
        command = [word if word != soak.model[3] else str(weights) for word in soak.eval_command(results)]
        process = soak.start(command)
        time.sleep(random.random() * 0.1)
        os.truncate(weights, random.randrange(1000))
        soak.end(process, "truncated weights", (0, 1, 2, 3))
        results.unlink(missing_ok=True)  # another model's, as far as eval can tell

    def no_memory(results):
        limit = random.randint(60, 900) << 20
        process = soak.start(["prlimit", f"--as={limit}", *soak.eval_command(results)])
        soak.end(process, "no memory", (0, 1, 3, 127))  # 127: the loader found no memory for the libraries

    def interrupted_output(results):
        """classify -o: the old file or the whole new one."""
        output = work / "output.json"
        output.write_text("old")
        process = soak.start([cli, "-q", "classify", str(soak.images / "class0"), *soak.model, "--device", "cpu", "-o",
                              str(output), "--format", "json"])
        time.sleep(random.random() * whole / 8)
        name = random.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        process.send_signal(name)
        code, _, _ = soak.end(process, "classify -o", (0, 1, -name))
        soak.counts["kills"] += code == -name
        text = output.read_text()
        if text != "old":
            try:
                json.loads(text)
            except ValueError:
                soak.problem("half-written", "classify -o")

    faults = [lambda r: kills(signal.SIGINT, r), lambda r: kills(signal.SIGTERM, r), lambda r: kills(signal.SIGKILL, r),
              full_disk, failing_reads, changing_files, truncated_weights, no_memory, interrupted_output]
    weights = [3, 3, 6, 1, 1, 1, 1, 1, 1]
    rounds = 0
    while time.monotonic() - start < minutes * 60:
        results = work / f"results{rounds}.jsonl"
        for _ in range(random.randint(1, 3)):
            random.choices(faults, weights)[0](results)
            soak.counts["faults"] += 1
        soak.finish(results, f"round {rounds}", wanted)
        rounds += 1

    print("| minutes | rounds | kills | faults | answers | lost | doubled | half-written | wrong | left over | bad ends |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    kinds = ("kills", "faults", "images", "lost", "doubled", "half-written", "wrong", "left over", "bad end")
    print(f"| {(time.monotonic() - start) / 60:.0f} | {rounds} | " + " | ".join(str(soak.counts[k]) for k in kinds) + " |")
    for text in soak.problems:
        print(text)
    shutil.rmtree(work)
    return 1 if soak.problems else 0


sys.exit(main())
