"""The training step of `surmise bench` in PyTorch, for comparison. Prints one JSON object.

    python3 step.py --preset tiny --threads 2 --steps 5

The same networks, masks, loss, clipping, optimiser and moving average as trainer/model builds; check.py holds it to
the reference data that the Go code is held to. Mask groups go one after the other. With --masks cut, the default, every
clip is cut to the fewest tokens of its batch, as published: less work than the Go code does, which cuts none. With
--masks whole none is cut and the tokens of a batch are packed, as there.

On a GPU (--device cuda) the loss stays there, and clips and masks lie there before the time begins: PyTorch is spared the
way. --graph records a whole step once and replays it, which takes shapes that do not change: the masks of one batch,
again and again. It is the fastest that PyTorch can be, where starting kernels takes longer than they do.
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
        self.encoder, self.target, self.predictor = process.compiled([n.to(args.device) for n in jepa.init(shape, args.attention)], args)
        parameters = [*self.encoder.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.AdamW([  # biases and norms do not decay
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0}], lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=True,
            capturable=getattr(args, "graph", False))
        self.online, self.slow = list(self.encoder.parameters()), list(self.target.parameters())

    def step(self, clips, groups, momentum=MOMENTUM, clip_norm=CLIP_NORM):
        """One step on clips [B,3,T,S,S] with the masks that jepa.masks draws; returns the loss, on a GPU still there."""
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
        return loss.detach() if self.args.device == "cuda" else float(loss)

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


def moved(groups, device):
    """Masks as jepa.masks draws them, on a device."""
    return [tuple([tokens.to(device) for tokens in side] for side in group) for group in groups]


def recorded(trainer, clips, groups):
    """A step on the same memory every time, as a CUDA graph; returns what replays it."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # lazy work happens before the recording
        for _ in range(3):
            trainer.step(clips, groups)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        trainer.step(clips, groups)
    return graph.replay


def main():
    p = process.arguments(__doc__, jepa.PRESETS)
    p.add_argument("--masks", default="cut", choices=["cut", "whole"])
    p.add_argument("--graph", action="store_true", help="replay one recorded step; with --device cuda")
    args = p.parse_args()
    if args.graph and args.device != "cuda":
        p.error("--graph goes with --device cuda")
    products = process.start(args)
    shape = jepa.PRESETS[args.preset]
    trainer = Trainer(shape, args)
    clips = torch.randn(shape.batch, 3, shape.frames, shape.size, shape.size, device=args.device)
    generator = torch.Generator().manual_seed(0)
    warm = 3 if args.compile else 1  # a compiled network is compiled again when its shapes first change
    if args.device == "cuda":
        warm = 10
    drawn = [jepa.masks(generator, shape, shape.batch, per_clip=args.masks == "whole") for _ in range(1 if args.graph else warm + args.steps)]
    if args.device == "cuda":
        drawn = [moved(groups, args.device) for groups in drawn]
    used = []

    def step():
        groups = drawn[len(used) % len(drawn)]
        used.append(groups)
        trainer.step(clips, groups)

    work = recorded(trainer, clips, drawn[0]) if args.graph else step
    for _ in range(warm):
        work()
    used.clear()
    if not args.graph:
        drawn = drawn[warm:]
    times = process.timed(work, args.steps, args)
    seconds, flops = process.median(times), sum(gflop(shape, g, args.masks) for g in drawn) / len(drawn)
    process.report(args, products, masks=args.masks, graph=args.graph, batch=shape.batch, steps=args.steps, step_s=seconds, clips_per_s=shape.batch / seconds,
                   gflop_per_step=flops, gflops_per_s=flops / seconds)


if __name__ == "__main__":
    main()
