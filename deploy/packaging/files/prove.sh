#!/bin/sh
# Runs the bundle's own pictures here and compares with what PyTorch found in them. Exits 0 where they agree.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
exec "$here/venv/bin/detheads" bundle prove "$here/@BUNDLE@" --backend @BACKEND@ "$@"
