"""Trains a VSSM on Tiny ImageNet within a given time, from the packed data to a safetensors file.

    train.py --data FOLDER --out FOLDER [--seconds 720] [--stop-after 560] …      (see README.md)

The learning rate is a function of the elapsed share of --seconds, so the schedule always completes. A run
stopped by --stop-after continues from OUT/state.pt when the same command is given again.
--out receives train.log.jsonl, the averaged weights as float16 safetensors, and predictions.npz.
"""

import argparse
import functools
import json
import math
import os
import sys
import time

import numpy as np
import torch
import torch._dynamo
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))

import tensorfile
import vssm
from augment import augment, normalise
from data import load_cached

CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vmamba-tiny-imagenet.json")
START = time.time()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, help="log, weights, predictions")
    parser.add_argument("--state", help="folder of the checkpoint and the decoded images (default: --out)")
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--seconds", type=float, default=720, help="of training, over all pieces")
    parser.add_argument("--stop-after", type=float, default=math.inf, help="seconds after the start of this piece")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.2)
    parser.add_argument("--warmup", type=float, default=0.04, help="share of the time")
    parser.add_argument("--drop-path", type=float, default=0.15)
    parser.add_argument("--label-smoothing", type=float, default=0.1)
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--clip", type=float, default=2.0)
    parser.add_argument("--smallest", type=float, default=0.3, help="share of the area that a crop keeps")
    parser.add_argument("--colour", type=float, default=0.3)
    parser.add_argument("--erase", type=float, default=0.15)
    parser.add_argument("--cutmix", type=float, default=0.5)
    parser.add_argument("--mixup", type=float, default=0.2)
    parser.add_argument("--unmixed", type=float, default=0.15, help="last share of the time without mixing, with larger crops")
    parser.add_argument("--evaluations", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--limit", type=int, help="use only so many images: for trying things out")
    parser.add_argument("--steps", type=int, default=10**9, help="stop after so many steps: for trying things out")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes, and end")
    return parser.parse_args()


class Run:
    """Everything that a checkpoint holds, and the captured training step."""

    def __init__(self, args, device):
        self.args, self.device, self.gpu = args, device, device == "cuda"
        with open(args.config) as file:
            self.config = json.load(file)
        torch.manual_seed(args.seed)
        implementations = self.implementations()
        self.model = vssm.VSSM(self.config, **implementations).to(device)
        self.ema = vssm.VSSM(self.config, **implementations).to(device).eval().requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        self.parameters, self.averages = list(self.model.parameters()), list(self.ema.parameters())
        decayed = [p for n, p in self.model.named_parameters() if decays(n, p)]
        others = [p for n, p in self.model.named_parameters() if not decays(n, p)]
        self.lr = torch.zeros((), device=device)
        groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=self.gpu, capturable=self.gpu)
        blocks = sum(self.config["depths"])
        rates = torch.linspace(0, args.drop_path, blocks, device=device)
        self.keep = (1 - rates).view(blocks, 1, 1)
        self.indices = torch.zeros(args.batch, dtype=torch.int64, device=device)
        # On the device, so that the captured step follows them: they change for the last, unmixed part.
        self.strength = {k: torch.tensor(getattr(args, k), device=device) for k in ("cutmix", "mixup", "smallest")}
        self.loss = torch.zeros((), device=device)
        self.step_count, self.spent, self.graph = 0, 0.0, None

    def implementations(self):
        if not self.gpu:
            return {"scan": vssm.sequential_scan_2d}
        from depthwise import depthwise_silu
        from scan import selective_scan_2d

        return {"scan": selective_scan_2d, "depthwise": depthwise_silu}

    def compile(self):
        """One compiled function a kind of module: blocks of one stage share their code."""
        torch._dynamo.config.recompile_limit = 64
        for kind in (vssm.Block, vssm.PatchEmbed, vssm.Downsample):
            compiled = torch.compile(kind.forward, dynamic=False)
            for module in self.model.modules():
                if isinstance(module, kind):
                    module.forward = functools.partial(compiled, module)

    def forward_backward(self):
        args, config = self.args, self.config
        labels = self.labels[self.indices]
        settings = {"colour": args.colour, "erase": args.erase, **self.strength}
        images, share = augment(self.images[self.indices], config["imgsize"], settings)
        shape = (self.keep.shape[0], 2, args.batch)
        keep = (torch.rand(shape, device=self.device) < self.keep).float() / self.keep
        with torch.autocast(self.device, dtype=torch.bfloat16, cache_enabled=False, enabled=self.gpu):
            logits = self.model(images, keep=keep.to(torch.bfloat16 if self.gpu else torch.float32))
        logits = logits.float()
        own = F.cross_entropy(logits, labels, reduction="none", label_smoothing=args.label_smoothing)
        other = F.cross_entropy(logits, labels.roll(1), reduction="none", label_smoothing=args.label_smoothing)
        loss = (share * own + (1 - share) * other).mean()
        loss.backward()
        return loss

    def step(self):
        loss = self.forward_backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.args.clip)
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def capture(self):
        """Warms up with a learning rate of 0, then records one step."""
        self.lr.zero_()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.optimizer.zero_grad(set_to_none=True)
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def advance(self, indices, progress):
        args = self.args
        self.indices.copy_(indices)
        self.lr.fill_(args.lr * schedule(progress, args.warmup))
        if progress > 1 - args.unmixed:
            self.strength["cutmix"].zero_()
            self.strength["mixup"].zero_()
            self.strength["smallest"].fill_(max(0.5, args.smallest))
        if self.graph is not None:
            self.graph.replay()
        else:
            self.optimizer.zero_grad(set_to_none=True)
            self.step()
        self.step_count += 1
        decay = min(args.ema, (1 + self.step_count) / (10 + self.step_count))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)

    def save(self, path):
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step_count,
            "spent": self.spent,
        }
        torch.save(state, path + ".part")
        os.replace(path + ".part", path)

    def load(self, path):
        state = torch.load(path, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.step_count, self.spent = state["step"], state["spent"]


def decays(name, parameter):
    return parameter.dim() > 1 and not name.endswith(("A_logs", "Ds", "dt_projs_bias"))


def schedule(progress, warmup):
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    return max(0.002, 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))))


def batches(count, batch, seed, step, device):
    """Endless shuffled batches, continuing at a step."""
    per_epoch = count // batch
    while True:
        generator = torch.Generator().manual_seed(seed * 100003 + step // per_epoch)
        order = torch.randperm(count, generator=generator).to(device)
        for i in range(step % per_epoch, per_epoch):
            yield order[i * batch : (i + 1) * batch]
            step += 1


@torch.inference_mode()
def predict(model, images, batch, dtype=torch.float32):
    """-> logits, float32. TF32 must be off for float32 to mean it."""
    out = []
    device = next(model.parameters()).device.type
    for part in images.split(batch):
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            out.append(model(normalise(part)).float())
    return torch.cat(out)


def profile(run, steps=5):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            run.graph.replay()
        torch.cuda.synchronize()
    totals = {}
    for event in profiler.events():
        count, time_us = totals.get(event.name, (0, 0.0))
        totals[event.name] = (count + 1, time_us + event.device_time)
    ranked = sorted(totals.items(), key=lambda item: -item[1][1])
    print(f"{sum(t for _, t in totals.values()) / steps / 1000:.2f} ms of kernels a step")
    for name, (count, time_us) in ranked[:40]:
        print(f"{time_us / steps / 1000:8.3f} ms {count / steps:6.0f} x  {name[:90]}")


def half_weights(model):
    return {name: value.half() for name, value in model.state_dict().items()}


def export(run, folder):
    """The averaged weights as float16"""
    path = os.path.join(folder, run.config["name"] + ".safetensors")
    metadata = {"format": "pt", "name": run.config["name"], "step": str(run.step_count)}
    tensorfile.save(path, half_weights(run.ema), metadata)
    return path


def main():
    args = arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    state_folder = args.state or args.out
    os.makedirs(args.out, exist_ok=True)
    os.makedirs(state_folder, exist_ok=True)
    log_path = os.path.join(state_folder, "train.log.jsonl")

    def log(**entry):
        line = json.dumps(entry)
        print(line, flush=True)
        with open(log_path, "a") as file:
            file.write(line + "\n")

    def since():
        return round(time.time() - START, 1)

    (images, labels), (val_images, val_labels) = load_cached(
        args.data, os.path.join(state_folder, "images.pt"), args.workers
    )
    if args.limit:
        images, labels = images[: args.limit], labels[: args.limit]
        val_images, val_labels = val_images[: args.limit], val_labels[: args.limit]
    run = Run(args, device)
    run.images, run.labels = images.to(device), labels.to(device)
    val_images, val_labels = val_images.to(device), val_labels.to(device)
    state_path = os.path.join(state_folder, "state.pt")
    if os.path.exists(state_path):
        run.load(state_path)
    torch.manual_seed(args.seed + 7919 * run.step_count)
    if run.gpu:
        if not args.no_compile:
            run.compile()
        run.capture()
        torch.cuda.synchronize()
        memory = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    else:
        memory = None
    count = sum(p.numel() for p in run.parameters)
    log(event="start", step=run.step_count, spent=round(run.spent, 1), ready_after=since(), parameters=count,
        device=torch.cuda.get_device_name() if run.gpu else "cpu", torch=torch.__version__, memory_gib=memory,
        config=os.path.basename(args.config),
        settings={k: v for k, v in vars(args).items() if k not in ("data", "out", "state", "config", "workers")
                  and v != math.inf})  # fmt: skip

    if args.profile:
        profile(run)
        return

    def evaluate(dtype):
        logits = predict(run.ema, val_images, 1000 if run.gpu else 64, dtype)
        return logits, (logits.argmax(1) == val_labels).sum().item()

    source = batches(len(run.images), args.batch, args.seed, run.step_count, device)
    marks, queue = [i / args.evaluations for i in range(1, args.evaluations)], []
    marks = [m for m in marks if m > run.spent / args.seconds]
    clock, first_step, first_spent = time.time(), run.step_count, run.spent
    while run.spent < args.seconds and time.time() - START < args.stop_after and run.step_count < args.steps:
        run.advance(next(source), run.spent / args.seconds)
        if run.gpu:  # the host stays at most 16 steps ahead of the device
            queue.append(torch.cuda.Event())
            queue[-1].record()
            if len(queue) > 16:
                queue.pop(0).synchronize()
        now = time.time()
        run.spent, clock = run.spent + now - clock, now
        if run.step_count % 400 == 0 or (not run.gpu):
            speed = (run.step_count - first_step) * args.batch / (run.spent - first_spent)
            epoch = run.step_count * args.batch / len(run.images)
            log(step=run.step_count, epoch=round(epoch, 2), spent=round(run.spent, 1), loss=round(run.loss.item(), 4),
                lr=float(f"{run.lr.item():.3g}"), images_per_s=round(speed))  # fmt: skip
        if marks and run.spent / args.seconds >= marks[0]:
            marks.pop(0)
            _, correct = evaluate(torch.bfloat16)
            log(event="evaluation", step=run.step_count, spent=round(run.spent, 1), correct=correct,
                of=len(val_labels))  # fmt: skip
            export(run, args.out)
            run.save(state_path)
            clock = time.time()
    if run.gpu:
        torch.cuda.synchronize()
    done = run.spent >= args.seconds
    run.save(state_path)
    path = export(run, args.out)
    _, correct = evaluate(torch.bfloat16)
    log(event="finished" if done else "stopped", step=run.step_count, spent=round(run.spent, 1), after=since(),
        epochs=round(run.step_count * args.batch / len(run.images), 1), correct_bfloat16=correct,
        of=len(val_labels))  # fmt: skip
    if done:
        logits, full = evaluate(torch.float32)
        run.ema.load_tensors(tensorfile.load(path))
        half_logits, half = evaluate(torch.float32)
        np.savez_compressed(
            os.path.join(args.out, "predictions.npz"), labels=val_labels.cpu().numpy(),
            predictions=half_logits.argmax(1).cpu().numpy(), predictions_float32_weights=logits.argmax(1).cpu().numpy(),
        )  # fmt: skip
        log(event="result", correct_float32=full, correct_float16_weights=half, of=len(val_labels))
    if state_folder != args.out:
        with open(log_path) as source_file, open(os.path.join(args.out, "train.log.jsonl"), "w") as target:
            target.write(source_file.read())


if __name__ == "__main__":
    main()
