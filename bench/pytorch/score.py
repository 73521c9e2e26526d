"""The published measure of surprise in PyTorch, for comparison with `surmise bench --score`. Prints one JSON object.

    python3 score.py --preset tiny --threads 2 --windows 32 --contexts 2,4,6,8,10

A window as long as the model's clip slides over a video by two frames. For each context length the encoder sees the
window's first frames, the predictor guesses the rest, and the mean absolute error against the target encoder's output
on the whole window, normalised per token, is the surprise (Garrido et al., arXiv:2502.11831). The published program
makes one pass over the windows for each context length and encodes the targets anew in each. With --tuned the target
encoder sees a window once.
"""
import torch

import jepa
import process

STRIDE = 2  # frames
BATCHES = 1, 2, 4, 8, 16  # windows at a time, of which the fastest counts
LARGE = 32, 64  # likewise, on a GPU


class Scorer:
    def __init__(self, shape, args):
        self.shape, self.args = shape, args
        self.encoder, self.target, self.predictor = process.compiled(
            [network.eval().requires_grad_(False).to(args.device) for network in jepa.init(shape, args.attention)], args)

    def windows(self, video):
        """Video [3,frames,S,S] as windows [W,3,T,S,S], a view."""
        return video.unfold(1, self.shape.frames, STRIDE).permute(1, 0, 4, 2, 3)

    @torch.inference_mode()
    def surprise(self, video, contexts, batch):
        """[contexts, windows]"""
        windows = self.windows(video).split(batch)
        with process.autocast(self.args):
            if self.args.tuned:
                columns = []
                for w in windows:
                    patches = jepa.patchify(w, self.shape)
                    goal = jepa.normalize(self.target(patches))
                    columns.append(torch.stack([self.error(patches, goal, c) for c in contexts]))
                return torch.cat(columns, 1)
            rows = []
            for c in contexts:
                row = []
                for w in windows:
                    patches = jepa.patchify(w, self.shape)
                    row.append(self.error(patches, jepa.normalize(self.target(patches)), c))
                rows.append(torch.cat(row))
            return torch.stack(rows)

    def error(self, patches, goal, context):
        """Surprise of windows [B] whose first frames are seen."""
        seen = context // self.shape.tubelet * self.shape.tokens // self.shape.grid[0]
        visible, hidden = torch.arange(self.shape.tokens, device=patches.device).expand(len(patches), -1).split([seen, self.shape.tokens - seen], 1)
        guess = self.predictor(self.encoder(patches[:, :seen], visible), visible, hidden, self.predictor.mask_tokens[0])
        return (guess.float() - goal[:, seen:]).abs().mean((1, 2))


def gflop(shape, contexts, tuned):
    """Matrix products of a window."""
    total = jepa.encoder_gflop(shape, shape.tokens) * (1 if tuned else len(contexts))
    for c in contexts:
        seen = c // shape.tubelet * shape.tokens // shape.grid[0]
        total += jepa.encoder_gflop(shape, seen) + jepa.predictor_gflop(shape, seen, shape.tokens - seen)
    return total


def main():
    p = process.arguments(__doc__, jepa.PRESETS)
    p.add_argument("--windows", type=int, help="of the video; default by preset")
    p.add_argument("--contexts", help="frames; default every tubelet up to five eighths of the window")
    p.add_argument("--tuned", action="store_true", help="encode the targets of a window once")
    p.add_argument("--batch", type=int, help="windows at a time; default the fastest of %s, on a GPU of %s too" % (BATCHES, LARGE))
    args = p.parse_args()
    products = process.start(args)
    shape = jepa.PRESETS[args.preset]
    windows = args.windows or shape.windows
    contexts = [int(c) for c in args.contexts.split(",")] if args.contexts else list(range(shape.tubelet, shape.frames * 5 // 8 + 1, shape.tubelet))
    scorer = Scorer(shape, args)
    video = torch.randn(3, shape.frames + STRIDE * (windows - 1), shape.size, shape.size, device=args.device)

    def trial(batch):  # seconds a window
        part = video[:, :shape.frames + STRIDE * (batch - 1)]
        scorer.surprise(part, contexts, batch)
        return min(process.timed(lambda: scorer.surprise(part, contexts, batch), 2, args)) / batch

    batches = BATCHES if args.device == "cpu" else BATCHES + LARGE
    batch = args.batch or min((b for b in batches if b <= windows), key=trial)
    if args.batch:
        scorer.surprise(video, contexts, batch)  # to warm up, as the trials do
    seconds = process.median(process.timed(lambda: scorer.surprise(video, contexts, batch), args.steps, args))
    work = windows * gflop(shape, contexts, args.tuned)
    process.report(args, products, tuned=args.tuned, batch=batch, windows=windows, contexts=contexts, steps=args.steps,
                   score_s=seconds, windows_per_s=windows / seconds, gflop_per_score=work, gflops_per_s=work / seconds)


if __name__ == "__main__":
    main()
