#!/bin/sh
# Copies the bundle to where it may be written, and builds its engine with this system's TensorRT unless it has one that
# fits: built by the same version, for the same GPU, from the same graph. Minutes at first, seconds after.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
state=${STATE_DIRECTORY:-$here/state}
mkdir -p "$state"
stamp=$(sha256sum <"$here/@BUNDLE@/bundle.json")
if [ "$(cat "$state/stamp" 2>/dev/null || :)" != "$stamp" ]; then # another bundle than the one that was copied
  rm -rf "$state/stamp" "$state/@BUNDLE@"
  cp -R "$here/@BUNDLE@" "$state/@BUNDLE@"
  printf '%s\n' "$stamp" >"$state/stamp"
fi
exec "$here/venv/bin/detheads" bundle build "$state/@BUNDLE@" --library tensorrt
