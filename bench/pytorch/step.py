"""The training step of `surmise bench` in PyTorch, for comparison.

The same networks, loss, masks and optimiser, written as one would for speed on a CPU:
fused qkv, the mask groups one after the other on truncated batches as published,
scaled_dot_product_attention or plain products (--attention), multi-tensor AdamW and
moving average. Prints one JSON object.

    python3 step.py --preset tiny --threads 2 --steps 5
"""
import argparse
import json
import resource
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

# size px, patch, encoder dim, depth, heads, predictor dim, depth, heads, batch
PRESETS = {
    "nano": (64, 8, 96, 4, 3, 48, 2, 3, 16),
    "tiny": (112, 16, 192, 12, 3, 96, 6, 3, 8),
    "small": (224, 16, 384, 12, 6, 192, 6, 6, 2),
}
FRAMES, TUBELET = 16, 2


class Block(nn.Module):
    def __init__(self, dim, heads, attention):
        super().__init__()
        self.heads, self.attention = heads, attention
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):  # [B,N,D]
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if self.attention == "sdpa":
            a = F.scaled_dot_product_attention(q, k, v)
        else:
            a = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + self.proj(a.transpose(1, 2).reshape(b, n, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Encoder(nn.Module):
    def __init__(self, patch_values, tokens, dim, depth, heads, attention):
        super().__init__()
        self.embed = nn.Linear(patch_values, dim)
        self.register_buffer("pos", torch.randn(1, tokens, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, heads, attention) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, patches, keep=None):  # [B,N,patch values]; keep [B,K]
        if keep is None:
            x = self.embed(patches) + self.pos
        else:
            x = self.embed(take(patches, keep)) + take(self.pos.expand(len(patches), -1, -1), keep)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Predictor(nn.Module):
    def __init__(self, tokens, dim, pdim, depth, heads, attention):
        super().__init__()
        self.embed, self.proj = nn.Linear(dim, pdim), nn.Linear(pdim, dim)
        self.register_buffer("pos", torch.randn(1, tokens, pdim) * 0.02)
        self.masks = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, pdim)) for _ in range(2))
        self.blocks = nn.ModuleList(Block(pdim, heads, attention) for _ in range(depth))
        self.norm = nn.LayerNorm(pdim, eps=1e-6)

    def forward(self, x, context, hidden, group):
        pos = self.pos.expand(len(x), -1, -1)
        x = torch.cat([self.embed(x) + take(pos, context), self.masks[group] + take(pos, hidden)], 1)
        for block in self.blocks:
            x = block(x)
        return self.proj(self.norm(x[:, context.shape[1]:]))


def take(x, index):  # rows of x [B,N,D] by index [B,K]
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def masks(generator, batch, t, h, w):
    """V-JEPA's two mask groups, cut to the batch minimum: [(context, hidden)] of [B,K]."""
    groups = []
    for count, scale in ((8, 0.15), (2, 0.7)):
        ratio = 0.75 * 2 ** float(torch.rand(1, generator=generator))
        area = scale * h * w
        bh, bw = min(h, max(1, round((area * ratio) ** 0.5))), min(w, max(1, round((area / ratio) ** 0.5)))
        contexts, hiddens = [], []
        while len(contexts) < batch:
            seen = torch.ones(h, w, dtype=torch.bool)
            for _ in range(count):
                top = int(torch.randint(0, h - bh + 1, (1,), generator=generator))
                left = int(torch.randint(0, w - bw + 1, (1,), generator=generator))
                seen[top:top + bh, left:left + bw] = False
            if seen.any():
                whole = seen.flatten().repeat(t)
                contexts.append(whole.nonzero().flatten())
                hiddens.append((~whole).nonzero().flatten())
        groups.append(tuple(torch.stack([m[:min(map(len, ms))] for m in ms]) for ms in (contexts, hiddens)))
    return groups


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--preset", default="tiny", choices=PRESETS)
    p.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    p.add_argument("--attention", default="sdpa", choices=["sdpa", "plain"])
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--steps", type=int, default=5)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    size, patch, dim, depth, heads, pdim, pdepth, pheads, batch = PRESETS[a.preset]
    t, h, w = FRAMES // TUBELET, size // patch, size // patch
    values = 3 * TUBELET * patch * patch
    encoder = Encoder(values, t * h * w, dim, depth, heads, a.attention)
    target = Encoder(values, t * h * w, dim, depth, heads, a.attention).requires_grad_(False)
    target.load_state_dict(encoder.state_dict())
    predictor = Predictor(t * h * w, dim, pdim, pdepth, pheads, a.attention)
    parameters = [*encoder.parameters(), *predictor.parameters()]
    optimizer = torch.optim.AdamW([{"params": [x for x in parameters if x.dim() > 1], "weight_decay": 0.04},
                                   {"params": [x for x in parameters if x.dim() < 2], "weight_decay": 0}], lr=1e-3, foreach=True)
    clip = torch.randn(batch, 3, FRAMES, size, size)
    generator = torch.Generator().manual_seed(0)
    online, slow = list(encoder.parameters()), list(target.parameters())

    def step():
        groups = masks(generator, batch, t, h, w)
        patches = clip.view(batch, 3, t, TUBELET, h, patch, w, patch).permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, t * h * w, values)
        with torch.autocast("cpu", torch.bfloat16, enabled=a.precision == "bf16"):
            with torch.no_grad():
                goal = F.layer_norm(target(patches).float(), (dim,))
            loss = 0
            for i, (context, hidden) in enumerate(groups):
                guess = predictor(encoder(patches, context), context, hidden, i)
                loss = loss + F.l1_loss(guess.float(), take(goal, hidden)) / len(groups)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 10, foreach=True)
        nn.utils.clip_grad_norm_(predictor.parameters(), 10, foreach=True)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_mul_(slow, 0.99)
            torch._foreach_add_(slow, online, alpha=0.01)
        return float(loss)

    step()
    times = []
    for _ in range(a.steps):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    times.sort()
    print(json.dumps({"preset": a.preset, "precision": a.precision, "attention": a.attention, "threads": a.threads, "torch": torch.__version__,
                      "step_s": times[len(times) // 2], "clips_per_s": batch / times[len(times) // 2],
                      "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


main()
