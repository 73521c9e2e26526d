"""The networks and masks of the benchmarks' presets in PyTorch, for comparison.

The same as trainer/model and masking build, written for speed on a CPU. Tensor names are those of the published
checkpoints, so that check.py can load the reference weights.

B clips, N tokens of a clip = T H W, K of them, D features. Tokens come as [B,K,D], or packed as [1,R,D] with the number
of rows of each clip in lengths.
"""
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F


class Shape(NamedTuple):
    size: int  # side of a frame, px
    patch: int  # side of a tubelet, px
    dim: int
    depth: int
    heads: int
    pred_dim: int
    pred_depth: int
    pred_heads: int
    batch: int  # clips of a training step
    windows: int  # of a scored video
    frames: int = 16  # of a clip
    tubelet: int = 2  # frames

    @property
    def grid(self):  # T, H, W
        return self.frames // self.tubelet, self.size // self.patch, self.size // self.patch

    @property
    def tokens(self):  # N
        t, h, w = self.grid
        return t * h * w

    @property
    def patch_values(self):
        return 3 * self.tubelet * self.patch ** 2


# Shapes and batches of trainer/model/config.go and proto/jobspec; base is that of deploy/gpu/base.json.
PRESETS = {
    "nano": Shape(64, 8, 96, 4, 3, 48, 2, 3, batch=16, windows=64),
    "tiny": Shape(112, 16, 192, 12, 3, 96, 6, 3, batch=8, windows=32),
    "small": Shape(224, 16, 384, 12, 6, 192, 6, 6, batch=2, windows=8),
    "base": Shape(224, 16, 768, 12, 12, 384, 12, 12, batch=32, windows=8),  # ViT-B/16 as published; for a GPU
}


class Attention(nn.Module):
    def __init__(self, dim, heads, kind):
        super().__init__()
        self.heads, self.kind = heads, kind
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, lengths=None):
        b, n, d = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if lengths is None:
            a = self.attend(*qkv)
        else:
            a = torch.cat([self.attend(*clip) for clip in qkv.split(lengths, 3)], 2)
        return self.proj(a.transpose(1, 2).reshape(b, n, d))

    def attend(self, q, k, v):  # [B,heads,K,D/heads]
        if self.kind == "sdpa":
            return F.scaled_dot_product_attention(q, k, v)
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v


class MLP(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, heads, attention):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim, heads, attention), MLP(dim)

    def forward(self, x, lengths=None):
        x = x + self.attn(self.norm1(x), lengths)
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    def __init__(self, shape, attention):
        super().__init__()
        # On tubelets cut out beforehand: the published convolution has no overlap, so it is this linear map, and a
        # linear map can leave out hidden tokens before the work is done.
        self.patch_embed = nn.ModuleDict({"proj": nn.Linear(shape.patch_values, shape.dim)})
        self.register_buffer("pos_embed", torch.randn(1, shape.tokens, shape.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(shape.dim, shape.heads, attention) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.dim, eps=1e-6)

    def forward(self, patches, tokens=None, lengths=None):  # [B,K,values], which tokens [B,K] (None: all) -> [B,K,D]
        x = self.patch_embed["proj"](patches) + (self.pos_embed if tokens is None else self.pos_embed[0, tokens])
        for block in self.blocks:
            x = block(x, lengths)
        return self.norm(x)


class Predictor(nn.Module):
    def __init__(self, shape, attention):
        super().__init__()
        self.predictor_embed = nn.Linear(shape.dim, shape.pred_dim)
        self.register_buffer("predictor_pos_embed", torch.randn(1, shape.tokens, shape.pred_dim) * 0.02)
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, shape.pred_dim)) for _ in range(2))
        self.predictor_blocks = nn.ModuleList(Block(shape.pred_dim, shape.pred_heads, attention) for _ in range(shape.pred_depth))
        self.predictor_norm = nn.LayerNorm(shape.pred_dim, eps=1e-6)
        self.predictor_proj = nn.Linear(shape.pred_dim, shape.dim)

    def forward(self, x, visible, hidden, mask, lengths=None):
        """x [B,K,D] of the visible tokens [B,K] -> guesses [B,M,D] of the hidden ones [B,M]; mask is a mask token.
        If they are packed, lengths has two lists."""
        x = self.predictor_embed(x) + self.predictor_pos_embed[0, visible]
        y = mask + self.predictor_pos_embed[0, hidden]
        if lengths is None:
            x = self.blocks(torch.cat([x, y], 1), None)[:, visible.shape[1]:]
        else:
            x = torch.cat([*chain(*zip(x.split(lengths[0], 1), y.split(lengths[1], 1)))], 1)
            x = self.blocks(x, [k + m for k, m in zip(*lengths)]).split([*chain(*zip(*lengths))], 1)
            x = torch.cat(x[1::2], 1)
        return self.predictor_proj(self.predictor_norm(x))

    def blocks(self, x, lengths):
        for block in self.predictor_blocks:
            x = block(x, lengths)
        return x


def init(shape, attention):
    """Encoder, target encoder and predictor with fresh weights as V-JEPA draws them."""
    encoder, target, predictor = Encoder(shape, attention), Encoder(shape, attention), Predictor(shape, attention)
    for network, blocks in ((encoder, encoder.blocks), (predictor, predictor.predictor_blocks)):
        for module in network.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for i, block in enumerate(blocks):
            block.attn.proj.weight.data.div_((2 * (i + 1)) ** 0.5)
            block.mlp.fc2.weight.data.div_((2 * (i + 1)) ** 0.5)
    target.load_state_dict(encoder.state_dict())
    return encoder, target.requires_grad_(False), predictor


def take(x, tokens):
    """Rows of x [B,N,D] by token [B,K]."""
    return x.gather(1, tokens.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def patchify(clips, shape):
    """Clips [B,3,T·tubelet,S,S] as tubelets, [B,N,values]."""
    t, h, w = shape.grid
    x = clips.reshape(len(clips), 3, t, shape.tubelet, h, shape.patch, w, shape.patch)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(len(clips), shape.tokens, shape.patch_values)


def normalize(targets):
    """Every token to mean 0 and variance 1: what predictions are compared with."""
    return F.layer_norm(targets.float(), targets.shape[-1:])


def masks(generator, shape, batch, per_clip):
    """V-JEPA's two mask groups: for each, the visible and the hidden tokens of every clip, as its collator draws them:
    eight blocks of 0.15 of the frame and two of 0.7, through the whole clip. Their shape is drawn for the batch, as
    published, or for each clip, as masking draws it."""
    t, h, w = shape.grid
    groups = []
    for count, scale in ((8, 0.15), (2, 0.7)):
        visible, hidden = [], []
        while len(visible) < batch:
            if per_clip or not visible:
                area = int(h * w * scale)
                ratio = 0.75 + 0.75 * float(torch.rand(1, generator=generator))
                bh, bw = min(h, max(1, round((area * ratio) ** 0.5))), min(w, max(1, round((area / ratio) ** 0.5)))
            seen = torch.ones(h, w, dtype=torch.bool)
            tops = torch.randint(0, h - bh + 1, (count,), generator=generator).tolist()
            lefts = torch.randint(0, w - bw + 1, (count,), generator=generator).tolist()
            for top, left in zip(tops, lefts):
                seen[top:top + bh, left:left + bw] = False
            if seen.any():  # else nothing would be left to predict from: drawn again
                clip = seen.flatten().repeat(t)
                visible.append(clip.nonzero().flatten())
                hidden.append((~clip).nonzero().flatten())
        groups.append((visible, hidden))
    return groups


def cut(tokens):
    """The clips' token lists cut to the shortest, as published, [B,K]."""
    return torch.stack([t[:min(map(len, tokens))] for t in tokens])


def encoder_gflop(shape, n, backward=False):
    """Matrix products of the encoder on one clip's n tokens, counted as trainer/cpu/flops.go counts them."""
    embed = 2 * n * shape.patch_values * shape.dim  # its input needs no gradient
    return embed * (2 if backward else 1) / 1e9 + blocks_gflop(n, shape.dim, shape.depth, backward)


def predictor_gflop(shape, visible, hidden, backward=False):
    ends = 2 * (visible + hidden) * shape.dim * shape.pred_dim
    return ends * (3 if backward else 1) / 1e9 + blocks_gflop(visible + hidden, shape.pred_dim, shape.pred_depth, backward)


def blocks_gflop(n, dim, depth, backward):
    maps, attention = 2 * n * 12 * dim ** 2, 2 * n ** 2 * dim  # the latter for one of its products: two forward, five backward
    return depth * (maps * (3 if backward else 1) + attention * (7 if backward else 2)) / 1e9
