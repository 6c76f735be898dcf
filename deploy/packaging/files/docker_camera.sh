#!/bin/sh
# Detections of a camera, a JSON line a picture: ./camera.sh for @CAMERA@, ./camera.sh SOURCE for what ffmpeg reads, such
# as /dev/video2 or rtsp://HOST/stream. Ends with the camera or with Ctrl+C.
set -eu

capture() {
  case ${1:-} in
    '') @CAPTURE@ ;;
    rtsp://*) ffmpeg -loglevel error -rtsp_transport tcp -i "$1" -f mjpeg -q:v 3 - ;;
    *) ffmpeg -loglevel error -i "$1" -f mjpeg -q:v 3 - ;;
  esac
}

capture "$@" | docker run --rm --interactive --read-only --tmpfs /tmp --entrypoint python @SERVICE@ \
  camera.py /opt/detheads/@BUNDLE@ @BACKEND@
