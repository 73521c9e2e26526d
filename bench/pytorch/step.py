"""The training step of `surmise bench` in PyTorch, for comparison. Prints one JSON object.

    python3 step.py --preset tiny --threads 2 --steps 5

The same networks, masks, loss, clipping, optimiser and moving average as trainer/model builds; check.py holds it to
the reference data that the Go code is held to. Mask groups go one after the other. With --masks cut, the default, every
clip is cut to the fewest tokens of its batch, as published: less work than the Go code does, which cuts none. With
--masks whole none is cut and the tokens of a batch are packed, as there.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

import jepa
import process

MOMENTUM, CLIP_NORM = 0.99, 10


class Trainer:
    def __init__(self, shape, args, lr=1e-3, weight_decay=0.04):
        self.shape, self.args = shape, args
        self.encoder, self.target, self.predictor = process.compiled(jepa.init(shape, args.attention), args)
        parameters = [*self.encoder.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.AdamW([  # biases and norms do not decay
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0}], lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=True)
        self.online, self.slow = list(self.encoder.parameters()), list(self.target.parameters())

    def step(self, clips, groups, momentum=MOMENTUM, clip_norm=CLIP_NORM):
        """One step on clips [B,3,T,S,S] with the masks that jepa.masks draws; returns the loss."""
        with process.autocast(self.args):
            loss = self.loss(jepa.patchify(clips, self.shape), groups)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip_norm:
            for network in self.encoder, self.predictor:
                nn.utils.clip_grad_norm_(network.parameters(), clip_norm, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.slow, self.online, 1 - momentum)
        return float(loss)

    def loss(self, patches, groups):  # [B,N,values]
        with torch.no_grad():
            goal = jepa.normalize(self.target(patches))
        loss = 0
        for (visible, hidden), mask in zip(groups, self.predictor.mask_tokens):
            if self.args.masks == "cut":
                visible, hidden = jepa.cut(visible), jepa.cut(hidden)
                seen = self.encoder(jepa.take(patches, visible), visible)
                guess, right = self.predictor(seen, visible, hidden, mask), jepa.take(goal, hidden)
            else:
                lengths = [len(v) for v in visible], [len(v) for v in hidden]
                kept, right = pick(patches, visible), pick(goal, hidden)
                visible, hidden = torch.cat(visible)[None], torch.cat(hidden)[None]
                seen = self.encoder(kept, visible, lengths[0])
                guess = self.predictor(seen, visible, hidden, mask, lengths)
            loss = loss + F.l1_loss(guess.float(), right) / len(groups)
        return loss


def pick(x, tokens):
    """Rows of x [B,N,D] by a list of tokens for each clip, packed [1,R,D]."""
    return torch.cat([clip[t] for clip, t in zip(x, tokens)])[None]


def gflop(shape, groups, masks):
    """Matrix products of a step with these masks."""
    total = shape.batch * jepa.encoder_gflop(shape, shape.tokens)
    for visible, hidden in groups:
        if masks == "cut":
            visible, hidden = jepa.cut(visible), jepa.cut(hidden)
        for k, m in zip(map(len, visible), map(len, hidden)):
            total += jepa.encoder_gflop(shape, k, backward=True) + jepa.predictor_gflop(shape, k, m, backward=True)
    return total


def main():
    p = process.arguments(__doc__, jepa.PRESETS)
    p.add_argument("--masks", default="cut", choices=["cut", "whole"])
    args = p.parse_args()
    products = process.start(args)
    shape = jepa.PRESETS[args.preset]
    trainer = Trainer(shape, args)
    clips = torch.randn(shape.batch, 3, shape.frames, shape.size, shape.size)
    generator = torch.Generator().manual_seed(0)
    drawn = []

    def step():
        groups = jepa.masks(generator, shape, shape.batch, per_clip=args.masks == "whole")
        drawn.append(groups)
        trainer.step(clips, groups)

    for _ in range(3 if args.compile else 1):  # a compiled network is compiled again when its shapes first change
        step()
    drawn.clear()
    times = process.timed(step, args.steps)
    seconds, work = process.median(times), sum(gflop(shape, g, args.masks) for g in drawn) / len(drawn)
    process.report(args, products, masks=args.masks, batch=shape.batch, steps=args.steps, step_s=seconds, clips_per_s=shape.batch / seconds,
                   gflop_per_step=work, gflops_per_s=work / seconds)


if __name__ == "__main__":
    main()
