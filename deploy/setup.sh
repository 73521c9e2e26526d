#!/bin/sh
# Brings a Debian 12 machine to where Surmise builds and runs: the packages below, when they are missing.
# Running it again changes nothing. On another system it says what to install and stops;
# SURMISE_SETUP=skip then takes the machine as it is.
#
#	setup.sh           all, for building and testing
#	setup.sh build     what building takes
#	setup.sh run       what a worker that was built elsewhere takes
#	setup.sh cluster   what the private Kubernetes of make test-kubernetes takes
#	setup.sh fresh     what make test-fresh takes
set -eu

build="libopencv-dev libdnnl-dev ffmpeg pkg-config g++"
test="postgresql openmpi-bin libopenmpi-dev munge slurmctld slurmd slurmdbd slurm-client mariadb-server-core mariadb-client-core mlir-19-tools" # its tests use them
run="libopencv-calib3d406 libopencv-core406 libopencv-dnn406 libopencv-features2d406 libopencv-highgui406 libopencv-imgcodecs406
	libopencv-imgproc406 libopencv-objdetect406 libopencv-photo406 libopencv-video406 libopencv-videoio406 libdnnl2 libgomp1
	ca-certificates"
needs="Surmise needs OpenCV 4.6 and oneDNN 2.6 with their headers, ffmpeg, pkg-config and a C++ compiler"
go_minor=26 # Go 1.26

fail() {
	printf 'setup: %s\n' "$*" >&2
	exit 1
}

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		fail "not root and no sudo here; as root, run: apt-get install --no-install-recommends$missing"
	fi
}

case ${1:-all} in
all) packages="$build $test" ;;
build) packages=$build ;;
run) packages=$run ;;
cluster) packages="etcd-server" ;;
fresh) packages="debootstrap" ;;
*) fail "unknown argument $1; want all, build, run, cluster or fresh" ;;
esac

if [ "${1:-all}" != run ]; then
	cd "$(dirname "$0")/.." # go.mod may make an older Go fetch the one it asks for
	command -v go >/dev/null || fail "no go in PATH; Surmise needs Go 1.$go_minor or later, see https://go.dev/dl"
	go_version=$(go env GOVERSION 2>&1) || fail "Surmise needs Go 1.$go_minor or later: $go_version"
	minor=$(printf '%s\n' "$go_version" | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
	[ "${minor:-0}" -ge "$go_minor" ] || fail "this is $go_version; Surmise needs Go 1.$go_minor or later, see https://go.dev/dl"
fi

[ "${SURMISE_SETUP:-}" != skip ] || exit 0

system=$(. "${OS_RELEASE:-/etc/os-release}" 2>/dev/null && printf '%s %s' "${ID:-}" "${VERSION_ID:-}") || system=unknown
[ "$system" = "debian 12" ] ||
	fail "this is $system, not debian 12. $needs (on Debian 12: $packages). Install them, then set SURMISE_SETUP=skip"

missing=
for package in $packages; do
	status=$(dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2>/dev/null) || status=
	case $status in
	ii*) ;;
	*) missing="$missing $package" ;;
	esac
done
[ -n "$missing" ] || exit 0

echo "setup: installing$missing"
as_root apt-get update -q
# shellcheck disable=SC2086 # one word per package
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
