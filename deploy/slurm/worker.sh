#!/bin/sh
# One Surmise worker, as a task of a Slurm job array. The coordinator submits it:
#
#	sbatch … --array=0-N worker.sh BATCH surmise worker --coordinator HOST:PORT …
#
# To load modules or to choose a scratch folder, copy it, add lines where marked, and name the copy in the launcher's
# settings ("script"). Options of sbatch belong in the settings, too.
set -eu

batch=$1
shift

# As many threads as cores were asked for, also where Slurm does not pin tasks to them.
cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-}}
if [ -n "$cpus" ]; then
	export GOMAXPROCS="$cpus"
fi

# Lines of the site go here, such as: module load ffmpeg

# exec, so that the SIGTERM that Slurm sends before the time limit, or to make room for others, reaches the worker: it
# takes a checkpoint, hands its job back and exits.
exec "$@" --name "$batch-$SLURM_ARRAY_TASK_ID"
