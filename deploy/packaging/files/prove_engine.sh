#!/bin/sh
# Builds the engine where it is not built yet, runs the bundle's own pictures on it and compares with what PyTorch found
# in them. Exits 0 where they agree.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
state=${STATE_DIRECTORY:-$here/state}
"$here/engine.sh"
exec "$here/venv/bin/detheads" bundle prove "$state/@BUNDLE@" --backend @BACKEND@ "$@"
