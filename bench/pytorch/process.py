"""The process that PyTorch is measured in: threads, memory, the BLAS; timing and the report.

What has to be in the environment before Python starts is set by bench/compare; by hand:

    GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=18446744073709551615:glibc.malloc.hugetlb=1

It keeps freed memory in the process and in huge pages. Without it the tiny step takes twenty thousand page faults.

With --device cuda the work runs on a GPU; deploy/gpu/check.sh measures it there.
"""
import argparse
import json
import os
import re
import resource
import sys
import time

import torch

# Debian's reference BLAS gives 2 to 5 on cores that can do 30 to 150.
SLOW_BLAS_GFLOPS = 10


def arguments(about, presets):
    p = argparse.ArgumentParser(description=about.splitlines()[0])
    p.add_argument("--preset", default="tiny", choices=presets)
    p.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    p.add_argument("--attention", default="sdpa", choices=["sdpa", "plain"])
    p.add_argument("--compile", action="store_true", help="torch.compile the networks")
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--steps", type=int, default=5, help="timed, after those that warm up")
    return p


def start(args):
    """Sets threads and refuses a BLAS that would make the comparison worthless. What it measures and returns is what
    the products of a step could reach."""
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    if args.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, as on the other side
        return products(8192, 8192, 8192, 20, args)
    best = products(512, 576, 192, 10, args)  # as trainer/cpu/roofline.go multiplies
    if best < SLOW_BLAS_GFLOPS:
        sys.exit(f"PyTorch multiplies matrices at {best:.1f} GFLOP/s with {blas()}: this BLAS is not optimised, and the comparison "
                 "would be worthless. On Debian install libopenblas0-openmp.")
    if re.search("openblas.*pthread", blas()):
        print("OpenBLAS with threads of its own gets in the way of PyTorch's: install libopenblas0-openmp instead.", file=sys.stderr)
    return best


def products(m, n, k, times, args):
    """GFLOP/s of products [m,k]·[k,n] alone, the best of 20 rounds."""
    kind = torch.bfloat16 if args.device == "cuda" and args.precision == "bf16" else torch.float32
    a, b = torch.randn(m, k, device=args.device, dtype=kind), torch.randn(n, k, device=args.device, dtype=kind)
    best = 0
    for _ in range(20):
        synchronize(args)
        began = time.perf_counter()
        for _ in range(times):
            torch.mm(a, b.t())
        synchronize(args)
        best = max(best, times * 2 * m * n * k / (time.perf_counter() - began) / 1e9)
    return best


def synchronize(args):
    """Waits for the GPU, which works on after a call returns."""
    if args.device == "cuda":
        torch.cuda.synchronize()


def autocast(args):
    return torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")


def compiled(networks, args):
    """The networks, compiled for any number of tokens where that is asked for."""
    if args.compile:
        for network in networks:
            network.compile(dynamic=True)
    return networks


TOGETHER = 10  # calls that are timed as one on a GPU, which is not waited for after each


def timed(work, steps, args):
    """Seconds of a call, of each of steps calls, or on a GPU of every TOGETHER."""
    together = min(TOGETHER, steps) if args.device == "cuda" else 1
    times = []
    for _ in range(steps // together):
        synchronize(args)
        began = time.perf_counter()
        for _ in range(together):
            work()
        synchronize(args)
        times.append((time.perf_counter() - began) / together)
    return times


def median(values):
    return sorted(values)[len(values) // 2]


def report(args, products, **figures):
    """Prints the one JSON object."""
    print(json.dumps({
        "preset": args.preset, "precision": args.precision, "threads": args.threads, "attention": args.attention, "compile": args.compile,
        **figures, "products_gflops_per_s": products, "peak_rss_bytes": peak_rss(), "torch": torch.__version__,
        "blas": blas(), "onednn": onednn(), "capability": torch.backends.cpu.get_cpu_capability(),
        "malloc": os.environ.get("GLIBC_TUNABLES", ""), **gpu(args)}))


def gpu(args):
    """What the GPU is, and the most memory that was in use on it."""
    if args.device != "cuda":
        return {}
    return {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
            "peak_device_bytes": torch.cuda.max_memory_allocated()}


def peak_rss():
    """The largest resident memory of this process, as surmise bench reads it."""
    with open("/proc/self/status") as f:
        peak = re.search(r"VmHWM:\s*(\d+) kB", f.read())
    return int(peak[1]) * 1024 if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # sandboxes have no VmHWM


def blas():
    """File names of the BLAS libraries that are loaded."""
    with open("/proc/self/maps") as f:
        files = {line.split()[-1] for line in f if re.search(r"lib(open)?blas|libblis|libmkl_(rt|core)", line)}
    return ", ".join(sorted("/".join(os.path.realpath(f).split("/")[-2:]) for f in files)) or "one that is built in"


def onednn():
    found = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    return found[1] if found else ""
