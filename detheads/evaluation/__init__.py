"""Detections of a head on a cache, and their COCO statistics."""
