#!/bin/sh
# What this machine has for running bundles, what stands in the way, and whether the bundle runs here.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
bundle=$here/state/@BUNDLE@ # with the engine that was built here
[ -d "$bundle" ] || bundle=$here/@BUNDLE@
exec "$here/venv/bin/detheads" doctor --bundle "$bundle" "$@"
