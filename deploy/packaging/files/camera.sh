#!/bin/sh
# Detections of a camera, a JSON line a picture: ./camera.sh for @CAMERA@, ./camera.sh SOURCE for what ffmpeg reads, such
# as /dev/video2 or rtsp://HOST/stream. Ends with the camera or with Ctrl+C.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)

capture() {
  case ${1:-} in
    '') @CAPTURE@ ;;
    rtsp://*) ffmpeg -loglevel error -rtsp_transport tcp -i "$1" -f mjpeg -q:v 3 - ;;
    *) ffmpeg -loglevel error -i "$1" -f mjpeg -q:v 3 - ;;
  esac
}

bundle=$here/@BUNDLE@
[ @BACKEND@ = cpu ] || bundle=$here/state/@BUNDLE@ # which ./prove.sh made
capture "$@" | "$here/venv/bin/python" "$here/camera.py" "$bundle" @BACKEND@
