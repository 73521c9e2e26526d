#!/bin/sh
# Holds Surmise on a GPU to the published code and to its own CPU machine, times it beside PyTorch, and prints a section
# for docs/benchmarks.md. It runs in the folder that build.sh made, on a machine with
#
#	an NVIDIA GPU and its driver; Python 3 with jax-cuda13-pjrt and NVIDIA's libraries; PyTorch, for the comparison
#
#	sh check.sh                         everything, in less than eight minutes
#	PYTHON=/venv/bin/python3 DEVICE=gpu:1 RESULTS=/tmp/results SECONDS_LEFT=900 sh check.sh
#	PACK=/out/results.tar.gz sh check.sh        and all that it has found so far in one file, after every part
#
# Exit code 0: everything holds. 1: something does not. 2: what was checked holds, and there was no time for the rest, which is
# named.
set -u

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
device=${DEVICE:-gpu}
out=${RESULTS:-$here/results}
pack=${PACK:-}
budget=${SECONDS_LEFT:-450}
began=$(date +%s)
failed=0
late=0
mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)
if [ -n "$pack" ]; then
	to=$(cd "$(dirname "$pack")" && pwd) || exit 1
	pack=$to/$(basename "$pack")
	case $pack in "$out"/*)
		echo "PACK lies in the folder of the results, which it would pack too: $pack" >&2
		exit 1
		;;
	esac
fi
found=$(command -v "$python") || { echo "no $python here: name one in PYTHON" >&2; exit 1; }
python=$found
case $python in /*) ;; *) python=$PWD/$python ;; esac
cd "$here" || exit 1

# packed brings what there is into one file, which is whole at any time.
packed() {
	if [ -n "$pack" ] && tar -czf "$pack.part" -C "$out" .; then mv "$pack.part" "$pack"; fi
}
left() { echo $((budget - $(date +%s) + began)); }
say() { printf '\n== %s (%s s left)\n' "$1" "$(left)"; }
# run NAME SECONDS COMMAND...: standard output to NAME.json, the rest to NAME.log; no longer than SECONDS or what is left.
# It returns 1 after a failure, 2 when there was no time to try.
run() {
	name=$1 most=$2
	shift 2
	rm -f "$out/$name.json" "$out/$name.skipped" # of an earlier check into the same folder
	if [ "$(left)" -lt 20 ]; then
		echo "$name: not run, the time is up" | tee "$out/$name.skipped"
		return 2
	fi
	if [ "$most" -gt "$(left)" ]; then most=$(left); fi
	timeout -k 10 "$most" "$@" > "$out/$name.json" 2> "$out/$name.log"
	code=$?
	if [ "$code" -eq 0 ]; then
		echo "$name: done"
		return 0
	fi
	why=$(tail -n 1 "$out/$name.log")
	if [ "$code" -eq 124 ] || [ "$code" -eq 137 ]; then why="no end after $most s"; fi
	echo "$name: FAILED: $why"
	mv "$out/$name.json" "$out/$name.output"
	return 1
}
# must is run of what has to hold.
must() {
	run "$@"
	case $? in
	1) failed=1 ;;
	2) late=1 ;;
	esac
}

if [ -z "${PJRT_PLUGIN_LIBRARY_PATH:-}" ]; then # the packages of the Python that was named, whatever else there is
	found=$("$python" - <<'PY'
import importlib.util, os
for name in "xla_cuda13", "xla_cuda12":
    try:
        spec = importlib.util.find_spec("jax_plugins." + name)
    except ImportError:
        continue
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = os.path.join(folder, "xla_cuda_plugin.so")
        if os.path.exists(path):
            print(path)
            raise SystemExit
PY
	) || found=
	if [ -n "$found" ]; then export PJRT_PLUGIN_LIBRARY_PATH="$found"; fi
fi

say "The machine"
nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used --format=csv,noheader | tee "$out/nvidia-smi.txt"
timeout -k 10 150 ./surmise doctor --device "$device" --data-dir "$out" | tee "$out/doctor.txt"
"$python" -m pip list --format=freeze 2> /dev/null | grep -iE '^(jax|torch|nvidia)' > "$out/packages.txt"
usable=yes
if ! grep '^ok *GPU plugin' "$out/doctor.txt" > /dev/null; then # PyTorch is timed all the same: it may not be had here again
	usable=
	failed=1
	echo "The GPU cannot be used: see above, and probe.txt."
	{
		TF_CPP_MIN_LOG_LEVEL=0 timeout -k 10 60 ./surmise gpu-probe --device "$device"
		env | grep -E 'CUDA|XLA|LD_|PJRT|NVIDIA'
		plugin=${PJRT_PLUGIN_LIBRARY_PATH:-/none}
		ls -l "$(dirname "$plugin")" "$(dirname "$plugin")"/../../nvidia/*/lib
		ldd "$plugin"
	} > "$out/probe.txt" 2>&1
fi
packed

# PyTorch compiles for a minute where it compiles at all; done beside what is not timed, the timed runs find it in its cache.
TORCHINDUCTOR_CACHE_DIR=$(mktemp -d) || exit 1
export TORCHINDUCTOR_CACHE_DIR
trap 'rm -rf "$TORCHINDUCTOR_CACHE_DIR"' EXIT
most=$(left)
if [ "$most" -gt 150 ]; then most=150; fi
if [ "$most" -lt 20 ]; then most=20; fi # 0 would be no limit
for preset in base small; do
	timeout -k 10 "$most" "$python" pytorch/step.py --device cuda --precision bf16 --preset "$preset" --steps 10 --compile \
		> "$out/warm-$preset.log" 2>&1 &
done

say "Parity with the published code, float32"
# golden NAME PROGRAM TESTS: tests in the background, their output to golden-NAME.log and the exit code to golden-NAME.code. All
# run at once: their time goes into compiling.
golden() {
	rm -f "$out/golden-$1.code" "$out/golden-$1.late"
	{
		start=$(date +%s)
		SURMISE_TEST_DEVICE="$device" SURMISE_GOLDEN="$here/golden" timeout -k 10 "$most" "./$2.test" -test.v -test.run "$3" \
			> "$out/golden-$1.log" 2>&1
		echo $? > "$out/golden-$1.code"
		if [ $(($(date +%s) - start)) -ge "$most" ]; then : > "$out/golden-$1.late"; fi
	} &
}
parity="model trainer training plausibility"
if [ -n "$usable" ]; then
	golden model model 'TestGolden/^xla'
	golden trainer trainer 'TestGolden(Forward|Gradients|VJEPA2)$/^xla'
	golden training trainer 'TestGoldenTraining$/^xla'
	golden plausibility plausibility 'TestGoldenSurprise'
fi
wait
for name in $parity; do
	log=$out/golden-$name.log
	if [ -z "$usable" ]; then echo "not run" > "$out/golden-$name.says"; continue; fi
	code=$(cat "$out/golden-$name.code" 2> /dev/null || echo none)
	passed=$(grep -cE '^ *--- PASS: (.*/xla|TestGoldenSurprise)' "$log")
	if [ "$code" = 0 ] && [ "$passed" -gt 0 ]; then
		echo "holds ($passed tests)" > "$out/golden-$name.says"
	elif { [ "$code" = 124 ] || [ -e "$out/golden-$name.late" ]; } && ! grep -qE '^ *--- FAIL|^panic|differs' "$log"; then
		late=1
		echo "cut off after $most s, $passed tests passed and none failed" > "$out/golden-$name.says"
	else
		failed=1
		echo "DOES NOT HOLD" > "$out/golden-$name.says"
	fi
	echo "$name: $(cat "$out/golden-$name.says")"
	if grep -q 'DOES NOT' "$out/golden-$name.says"; then
		grep -E '^ *(--- FAIL|[a-z_0-9]+\.go:|panic|testing:)' "$log" | head -n 20
	fi
done
packed

say "300 steps against the CPU, float32"
preset=$("$python" -c 'import json; print(json.load(open("curve.json"))["preset"])')
rm -f "$out/curve.txt"
if [ -n "$usable" ]; then must curve-gpu 90 ./surmise bench --device "$device" --precision fp32 --preset "$preset" --steps 300 --json; fi
if [ -e "$out/curve-gpu.json" ]; then
	"$python" report.py curve curve.json "$out/curve-gpu.json" | tee "$out/curve.txt" || true
	if ! grep '^holds' "$out/curve.txt" > /dev/null; then failed=1; fi
fi

# From here on what matters most comes first, so that a check that is cut off leaves the most: all of ours, PyTorch in the
# ways that start at once, then what has to be compiled for most of a minute. PyTorch's best way is the fastest of them.
steps() { case $1 in small) echo 30 ;; base) echo 20 ;; *) echo 60 ;; esac; }
most() { case $1 in small) echo 120 ;; base) echo 150 ;; *) echo 90 ;; esac; } # seconds, compiling included
ours() { # NAME PRESET FLAG...: a training run
	name=$1 preset=$2
	shift 2
	if [ -z "$usable" ]; then return; fi
	if [ "$preset" = base ]; then set -- --file base.json "$@"; else set -- --preset "$preset" "$@"; fi
	must "$name" "$(most "$preset")" ./surmise bench --device "$device" --precision bf16 --steps "$(steps "$preset")" --json "$@"
}
theirs() { # PRESET WAY FLAG...
	name=train-$1-torch-$2 preset=$1
	shift 2
	run "$name" "$(most "$preset")" "$python" pytorch/step.py --device cuda --precision bf16 --preset "$preset" --steps "$(steps "$preset")" "$@" || true
}
section() {
	"$python" report.py section "$out" BUILT > "$out/section.md" || return 1
	packed
}

say "Training and scoring, bfloat16"
for preset in nano tiny small base; do ours "train-$preset-surmise" "$preset"; done
for preset in nano tiny; do # as many windows in a pass as PyTorch takes
	windows=64
	if [ "$preset" = tiny ]; then windows=32; fi
	if [ -z "$usable" ]; then continue; fi
	must "score-$preset-surmise" 60 ./surmise bench --score --device "$device" --precision bf16 --preset "$preset" --windows "$windows" --json
done
section

say "PyTorch, bfloat16"
for preset in nano tiny; do theirs "$preset" graph --graph; done
for preset in small base; do theirs "$preset" eager; done
for preset in nano tiny; do
	windows=64
	if [ "$preset" = tiny ]; then windows=32; fi
	run "score-$preset-torch-tuned" 60 "$python" pytorch/score.py --device cuda --precision bf16 --preset "$preset" --windows "$windows" --tuned || true
done
section

say "PyTorch, compiled"
for preset in base small; do theirs "$preset" compiled --compile; done # whose fastest way it is
for preset in tiny nano; do theirs "$preset" compiled-graph --compile --graph; done
section

# What may be worth setting for good, and the compiler's answer to the step. A flag that a plugin does not know ends a run.
say "nano, otherwise compiled"
if [ -n "$usable" ]; then
run train-nano-surmise-plain 60 ./surmise bench --device "$device" --precision bf16 --gpu-fused-attention=false --preset nano --steps 60 --json || true
fi
flagged() { # NAME FLAGS
	if [ -z "$usable" ]; then return; fi
	XLA_FLAGS="$2 ${XLA_FLAGS:-}" run "flags-nano-$1" 60 ./surmise bench --device "$device" --precision bf16 --preset nano --steps 60 --json || true
}
flagged concurrent --xla_gpu_command_buffer_scheduling_mode=CONCURRENT
flagged cublaslt --xla_gpu_enable_cublaslt=true
flagged dump "--xla_dump_to=$out/hlo --xla_dump_hlo_as_text"
find "$out/hlo" -type f ! -name '*after_optimizations.txt' ! -name '*thunk_sequence.txt' -delete 2> /dev/null

say "For docs/benchmarks.md"
section || failed=1
packed
cat "$out/section.md"
if [ "$failed" -ne 0 ]; then
	echo "Something does not hold: see above, and the files in $out."
	exit 1
fi
if [ "$late" -ne 0 ]; then exit 2; fi
