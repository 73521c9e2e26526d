#!/bin/sh
# Times training steps here and in PyTorch, in alternating runs on the same cores, and prints one JSON object a run.
# PYTHON names the interpreter that has PyTorch (default python3; may hold arguments), PRESETS, ROUNDS, STEPS and
# THREADS what is run. On Debian 13 `apt-get install python3-torch libopenblas0-openmp` brings PyTorch 2.6; on Debian 12
# the same works inside a folder made by `debootstrap trixie DIR`, with PYTHON='chroot DIR python3' and /proc mounted.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} PRESETS=${PRESETS:-nano tiny small} ROUNDS=${ROUNDS:-3} STEPS=${STEPS:-5} THREADS=${THREADS:-$(nproc)}

torch=yes
$PYTHON -c 'import torch' 2>/dev/null || {
	torch=no
	echo "No PyTorch for '$PYTHON': timing Surmise alone. See the head of bench/compare.sh for how to get it." >&2
}
for preset in $PRESETS; do
	for _ in $(seq "$ROUNDS"); do
		bin/surmise bench --preset "$preset" --threads "$THREADS" --steps "$STEPS" --json
		if [ $torch = yes ]; then # the program goes in through standard input: the interpreter may live in another root
			for attention in sdpa plain; do
				$PYTHON - --preset "$preset" --threads "$THREADS" --steps "$STEPS" --attention $attention <bench/pytorch/step.py
			done
		fi
	done
done
