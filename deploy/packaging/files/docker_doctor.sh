#!/bin/sh
# What the container has for running bundles, what stands in the way, and whether the bundle runs there.
set -eu
exec docker run --rm --read-only --tmpfs /tmp @SERVICE@ doctor --bundle /opt/detheads/@BUNDLE@ "$@"
