"""Video files, network streams and cameras: frames in, detections, tracks and an annotated video out."""
