#!/bin/sh
# Runs the bundle's own pictures in the container and compares with what PyTorch found in them. Exits 0 where they agree.
set -eu
exec docker run --rm --read-only --tmpfs /tmp @SERVICE@ bundle prove /opt/detheads/@BUNDLE@ --backend @BACKEND@ "$@"
