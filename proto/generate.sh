#!/bin/sh
# Generates the Go of the API from proto/surmise/v1/*.proto. Needs Go only: the compiler and the plugins are pinned in
# proto/tools/go.mod.
set -eu
cd "$(dirname "$0")/tools"
exec go run . ..
