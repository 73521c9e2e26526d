"""Holds step.py and score.py to the reference data that the Go code is held to.

    python3 bench/pytorch/check.py testdata/golden
"""
import argparse
import json
import math
import os
import sys
from types import SimpleNamespace

import torch

import jepa
import score
import step

DTYPES = {"F32": torch.float32, "I64": torch.int64, "I32": torch.int32}


def tensors(path):
    """The tensors of a safetensors file."""
    with open(path, "rb") as f:
        data = bytearray(f.read())
    head = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, t in json.loads(data[8:head]).items():
        if name != "__metadata__":
            first, last = t["data_offsets"]
            found[name] = torch.frombuffer(data[head + first:head + last], dtype=DTYPES[t["dtype"]]).reshape(t["shape"])
    return found


def load(networks, weights):
    """Weights into encoder, target encoder and predictor; a file without a target encoder starts it as the encoder."""
    target = "target_encoder." if any(name.startswith("target_encoder.") for name in weights) else "encoder."
    for name, network in zip(("encoder.", target, "predictor."), networks):
        network.load_state_dict({key: weights[name + key].reshape(value.shape) for key, value in network.state_dict().items()})


def shape_of(config):
    return jepa.Shape(config["img"], config["patch"], config["dim"], config["depth"], config["heads"], config["pdim"], config["pdepth"],
                      config["heads"], batch=config["batch"], windows=0, frames=config["frames"], tubelet=config["tubelet"])


def check_training(folder, arguments):
    with open(os.path.join(folder, "vjepa1_train.json")) as f:
        manifest = json.load(f)
    batches = tensors(os.path.join(folder, "vjepa1_train_batches.safetensors"))
    trainer = step.Trainer(shape_of(manifest["config"]), arguments)
    load((trainer.encoder, trainer.target, trainer.predictor), tensors(os.path.join(folder, "vjepa1_train_start.safetensors")))
    worst = 0
    for i, expected in enumerate(manifest["steps"]):
        decaying, plain = trainer.optimizer.param_groups
        decaying["lr"] = plain["lr"] = expected["lr"]
        decaying["weight_decay"] = expected["weight_decay"]
        of = lambda name: batches[f"step{i + 1}.{name}"]
        groups = [([*of(f"masks_enc.{g}").long()], [*of(f"masks_pred.{g}").long()]) for g in range(2)]
        clipping = manifest["optimization"]["clip"] if expected["clipped"] else None
        loss = trainer.step(of("clip"), groups, expected["momentum"], clipping)
        worst = max(worst, abs(loss - expected["loss"]) / expected["loss"])
    end = tensors(os.path.join(folder, "vjepa1_train_end.safetensors"))
    total, count = 0, 0
    for prefix, network in (("encoder.", trainer.encoder), ("target_encoder.", trainer.target), ("predictor.", trainer.predictor)):
        for key, value in network.state_dict().items():
            apart = (value - end[prefix + key].reshape(value.shape)).abs()
            if key.endswith("qkv.bias"):  # the keys' third has a gradient of zero, and both hold rounding noise
                apart = apart.reshape(3, -1)[[0, 2]]
            total, count = total + float(apart.sum()), count + apart.numel()
    return ("loss", worst, 2e-5), ("weights, mean", total / count, 1e-7)


def check_surprise(folder, arguments):
    with open(os.path.join(folder, "vjepa_surprise.json")) as f:
        manifest = json.load(f)
    data = tensors(os.path.join(folder, "vjepa_surprise.safetensors"))
    scorer = score.Scorer(shape_of(manifest["config"]), arguments)
    load((scorer.encoder, scorer.target, scorer.predictor), tensors(os.path.join(folder, "vjepa1_forward.safetensors")))
    worst = 0
    for video, expected in zip(data["videos"], data["surprise"]):
        got = scorer.surprise(video, manifest["context_lengths"], 4)
        worst = max(worst, float((got - expected).abs().max()))
    return ("surprise", worst, 1e-6),


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("golden", help="testdata/golden")
    folder = p.parse_args().golden
    failed = False
    for attention in "sdpa", "plain":
        options = {"attention": attention, "precision": "fp32", "compile": False, "device": "cpu"}
        for name, settings, check in [("training", {"masks": "cut"}, check_training), ("training", {"masks": "whole"}, check_training),
                                      ("scoring", {"tuned": False}, check_surprise), ("scoring", {"tuned": True}, check_surprise)]:
            for what, apart, allowed in check(folder, SimpleNamespace(**options, **settings)):
                ok = math.isfinite(apart) and apart <= allowed
                failed |= not ok
                print(f"{'ok' if ok else 'WRONG'}: {name}, {attention}, {settings}: {what} differs by {apart:.2g}, allowed {allowed:g}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
