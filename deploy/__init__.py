"""The runtime: a bundle and pictures in, detections out. Free of torch and timm."""

from detheads.deploy.detector import Detections, Detector
from detheads.deploy.session import BundleSession

__all__ = ["BundleSession", "Detections", "Detector"]
