#!/bin/sh
# Does in a fresh Debian 12, in a folder, what deploy/docker/worker.Dockerfile does for its last stage: runs setup.sh, puts
# the programs in, and starts them as nobody. Then a coordinator gives a worker a small job. Needs root, debootstrap and the
# programs in bin/; the second run keeps the first one's Debian.
#
#	deploy/fresh.sh FOLDER      not in this repository, whose tools would look into it
set -eu

folder=$1
address=127.0.0.1:17943
cd "$(dirname "$0")/.."
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

say() { printf 'fresh: %s\n' "$*"; }

if [ ! -e "$folder/debian.done" ]; then
	say "Debian 12 into $folder/debian"
	rm -rf --one-file-system "$folder/debian"
	# Its mounts are its own, and gone afterwards.
	unshare --mount -- debootstrap --variant=minbase bookworm "$folder/debian" >"$folder/debootstrap.log" 2>&1 || {
		tail -5 "$folder/debootstrap.log"
		exit 1
	}
	touch "$folder/debian.done"
fi

say "a copy, which the scripts change"
rm -rf --one-file-system "$folder/root"
cp -a --one-file-system "$folder/debian" "$folder/root"
root=$folder/root
cp deploy/setup.sh "$root/tmp/setup.sh"
cp /etc/resolv.conf "$root/etc/resolv.conf"

# What is mounted and started in there ends with this shell.
inside() {
	unshare --mount --pid --fork --kill-child -- sh -euc '
		root=$1
		shift
		mount -t proc proc "$root/proc"
		mount --rbind /dev "$root/dev"
		exec chroot "$root" "$@"' inside "$root" "$@"
}

say "setup.sh run"
inside /tmp/setup.sh run >"$folder/setup.log" 2>&1 || {
	tail -20 "$folder/setup.log"
	exit 1
}
rm "$root/tmp/setup.sh"
install -d -o 65532 -g 65532 "$root/var/lib/surmise" "$root/var/cache/surmise"
install -m 755 bin/worker bin/surmise "$root/usr/local/bin/"
install -m 755 bin/coordinator "$root/coordinator"

say "a job, as user 65532"
inside setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --inh-caps=-all -- \
	env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/var/lib/surmise sh -euc '
	cd /var/lib/surmise
	surmise synth --out clips --clips 8 --pairs 1 --size 32 --frames 16 --seed 1 >/dev/null
	/coordinator --data-dir=/var/lib/surmise --listen='"$address"' 2>coordinator.log &
	worker --data-dir=/var/lib/surmise --cache-dir=/var/cache/surmise --coordinator='"$address"' 2>worker.log &
	cat >job.json <<-J
		{"train": {"data": ["/var/lib/surmise/clips/clips"], "steps": 4, "batch": 2, "model": {"size": 32, "frames": 8, "dim": 32, "depth": 1, "pred_dim": 32, "pred_depth": 1}}}
	J
	tries=0
	until surmise jobs --coordinator '"$address"' >/dev/null 2>&1; do # it listens
		tries=$((tries + 1))
		[ "$tries" -lt 100 ] || { cat coordinator.log worker.log; exit 1; }
		sleep 0.2
	done
	surmise submit --coordinator '"$address"' -f job.json --wait || { cat coordinator.log worker.log; exit 1; }
	surmise jobs --coordinator '"$address"'
'
rm -rf --one-file-system "$root"
say done
