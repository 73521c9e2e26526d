#!/bin/sh
# Builds what deploy/gpu/check.sh brings to a machine with a GPU: programs that need neither Go nor OpenCV there, only
# glibc 2.34, and what they are held to. Run it from the root of the repository, on a quiet machine:
#
#	make gpu-check-bundle              or: sh deploy/gpu/build.sh [FOLDER]
#
# then copy FOLDER (bin/gpu-check) to the machine, or FOLDER.tar.xz, a fifth of its size, and run check.sh there. Python unpacks it
# where there is no xz: python3 -m tarfile -e gpu-check.tar.xz
set -eu

out=${1:-bin/gpu-check}
curve_preset=${CURVE_PRESET:-nano}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The same module with a stand-in for the OpenCV binding, and with the kernels in Go.
cp go.mod "$work/bundle.mod"
cp go.sum "$work/bundle.sum"
printf '\nreplace gocv.io/x/gocv => %s/deploy/gpu/withoutopencv\n' "$PWD" >> "$work/bundle.mod"
version=$(git describe --tags --always --dirty 2>/dev/null || echo unknown)
export CGO_ENABLED=1

go build -modfile="$work/bundle.mod" -tags nonative -ldflags "-s -w -X main.version=$version" -o "$out/surmise" ./cmd/surmise
for package in trainer trainer/model plausibility; do
	go test -c -ldflags "-s -w" -modfile="$work/bundle.mod" -tags nonative -o "$out/$(basename $package).test" "./$package"
done

rm -rf "$out/golden" "$out/pytorch"
cp -R testdata/golden "$out/golden"
mkdir "$out/pytorch"
cp bench/pytorch/*.py "$out/pytorch"
cp deploy/gpu/check.sh deploy/gpu/report.py deploy/gpu/base.json "$out"

# The CPU's losses, which the GPU's are held to. The GPU warms up with ten steps, the CPU with one, and the learning rate
# follows from the number of all steps: 310 on both.
go build -ldflags "-X main.version=$version" -o "$work/surmise" ./cmd/surmise
"$work/surmise" bench --device cpu --precision fp32 --preset "$curve_preset" --steps 309 --json > "$work/curve.json"
mv "$work/curve.json" "$out/curve.json"

{
	echo "surmise $version"
	go version
	date -u +%Y-%m-%d
} > "$out/BUILT"
rm -f "$out.tar.xz" # of an earlier build
if command -v xz > /dev/null; then # the programs have most of their bytes in common, further apart than xz looks by itself
	tar -C "$(dirname "$out")" -cf "$work/bundle.tar" "$(basename "$out")"
	xz -T1 --x86 --lzma2=preset=6,dict=256MiB < "$work/bundle.tar" > "$out.tar.xz.part"
	mv "$out.tar.xz.part" "$out.tar.xz"
	ls -l "$out.tar.xz"
fi
echo "$out: copy it to a machine with a GPU, and run check.sh there"
