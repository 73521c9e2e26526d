"""Reads what check.sh measured.

    python3 report.py curve CPU.json GPU.json    are the losses the same?
    python3 report.py section RESULTS BUILT      a section for docs/benchmarks.md
"""
import datetime
import glob
import json
import os
import re
import sys

# Losses of the two machines part slowly, as rounding differs and steps build on steps: 2 % after 300 steps is ten times
# what they are apart after 24, and a wrong gradient is off by more from the first steps on.
ALLOWED = 0.02


def curve(cpu, gpu):
    """Prints how far two curves of losses are apart, first "holds" or "DOES NOT HOLD"."""
    a, b = (json.load(open(path)) for path in (cpu, gpu))
    if len(a["losses"]) != len(b["losses"]) or len(a["losses"]) < 30:
        return print(f"DOES NOT HOLD: {len(b['losses'])} losses on the GPU, {len(a['losses'])} on the CPU")
    apart = [abs(x - y) / abs(x) for x, y in zip(a["losses"], b["losses"])]
    ok = all(d <= ALLOWED for d in apart)  # false for what is no number
    print(f"{'holds' if ok else 'DOES NOT HOLD'}: {a['preset']}, losses of every tenth of {10 * len(apart)} steps, from {a['losses'][0]:.4f} to "
          f"{a['losses'][-1]:.4f}: at most {100 * max(apart):.2f} % apart ({100 * ALLOWED:.0f} % allowed), {100 * apart[-1]:.2f} % in the end")


def results(folder):
    """What was measured, by name."""
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        with open(path) as f:
            try:
                found[os.path.basename(path)[:-len(".json")]] = json.loads(f.read().strip().splitlines()[-1])
            except (ValueError, IndexError):
                pass  # a run that ended without an answer; check.sh said so
    return found


def text(*path):
    try:
        with open(os.path.join(*path)) as f:
            return f.read().strip()
    except OSError:
        return ""


def best(found, prefix, key):
    """Name and result of the fastest run whose name begins with prefix."""
    runs = [(r[key], name[len(prefix):].strip("-"), r) for name, r in found.items() if name.startswith(prefix)]
    return min(runs, key=lambda r: r[0], default=(None, "", None))


def row(found, kind, preset, key, unit):
    ours, how, r = best(found, f"{kind}-{preset}-surmise", key)
    theirs, way, t = best(found, f"{kind}-{preset}-torch", key)
    number = lambda seconds: "not run" if seconds is None else f"{1e3 * seconds:.2f}"
    ratio = f"**{theirs / ours:.2f}**" if ours and theirs else "–"
    share = lambda rate, of: f"{100 * rate / of:.0f} %" if rate and of else "–"
    return (f"| {preset} ({(r or t or {}).get(unit, '–')}) | {number(ours)}{' (plain attention)' if how == 'plain' else ''} | {number(theirs)} | {way or '–'} | {ratio} "
            f"| {share(r.get('gflops_per_s'), r.get('roofline_gflops')) if r else '–'} | {share(t.get('gflops_per_s'), t.get('products_gflops_per_s')) if t else '–'} "
            f"| {100 * r['data_wait_share']:.1f} % |" if r and "data_wait_share" in r else
            f"| {preset} ({(r or t or {}).get(unit, '–')}) | {number(ours)} | {number(theirs)} | {way or '–'} | {ratio} | – | – | – |")


def section(folder, built):
    found = results(folder)
    torch = max((r for name, r in found.items() if "-torch" in name), key=len, default={})  # what says most of itself
    packages = dict(line.split("==", 1) for line in text(folder, "packages.txt").splitlines() if "==" in line)
    plugin = re.search(r"^ok +GPU plugin +(.*)$", text(folder, "doctor.txt"), re.M)
    parity = {name: text(folder, f"golden-{name}.says") or "not run" for name in ("model", "trainer", "training", "plausibility")}
    print(f"""## On a GPU

`deploy/gpu/check.sh` wrote this part on {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}.

- Machine: {text(folder, "nvidia-smi.txt").splitlines()[0] if text(folder, "nvidia-smi.txt") else "no nvidia-smi"} (model, driver, memory, memory in use).
- {", ".join(text(built).splitlines()) or "version unknown"}; {plugin[1] if plugin else "no plugin"}.
- Python packages: {", ".join(f"{k} {v}" for k, v in sorted(packages.items()) if re.match("jax|torch$|nvidia-(cublas|cudnn|cuda-runtime)", k)) or "not listed"}.
- PyTorch {torch.get("torch", "not run")}, CUDA {torch.get("cuda", "–")}, cuDNN {torch.get("cudnn", "–")}.

Parity with the published code in fp32: {", ".join(f"{name} {says}" for name, says in parity.items())}.
300 steps in fp32 against the CPU: {text(folder, "curve.txt") or "not run"}.

Milliseconds a step in bf16, medians after warm-up; PyTorch's is the fastest of the ways tried. The ratio is PyTorch's time
over Surmise's. Shares are of products alone, as each side measured them in the same run. Surmise uploads every clip;
PyTorch's lie on the GPU beforehand, and of its steps nothing is brought back, where every tenth of ours reports its targets.

| preset (batch) | Surmise | PyTorch | its fastest way | ratio | Surmise's share | PyTorch's share | waits for data |
|---|---|---|---|---|---|---|---|""")
    for preset in "nano", "tiny", "small", "base":
        print(row(found, "train", preset, "step_s", "batch"))
    print("""
Seconds per window, likewise, in milliseconds; PyTorch encodes each window's targets once.

| preset (windows) | Surmise | PyTorch | ratio |
|---|---|---|---|""")
    for preset in "nano", "tiny":
        ours, theirs = (found.get(f"score-{preset}-{side}", {}) for side in ("surmise", "torch-tuned"))
        a, b = ours.get("windows_per_s"), theirs.get("windows_per_s")
        number = lambda rate: f"{1e3 / rate:.3f}" if rate else "not run"
        print(f"| {preset} ({ours.get('windows', '–')}) | {number(a)} | {number(b)} | {f'**{a / b:.2f}**' if a and b else '–'} |")
    tried = [(name[len("flags-nano-"):], r["step_s"]) for name, r in sorted(found.items()) if name.startswith("flags-nano-") and name != "flags-nano-dump"]
    if tried:
        print("\nMilliseconds a step of nano with other compiler flags: " + ", ".join(f"{name} {1e3 * step:.2f}" for name, step in tried) + ".")
    skipped = [os.path.basename(p)[:-len(".skipped")] for p in sorted(glob.glob(os.path.join(folder, "*.skipped")))]
    if skipped:
        print(f"\nNot run, as the time was up: {', '.join(skipped)}.")


if __name__ == "__main__":
    {"curve": curve, "section": section}[sys.argv[1]](*sys.argv[2:])
