"""Frozen vision encoders: the table of known ones (``spec``) and how to build them (``backbone``).

This package imports no torch by itself, so that listing backbones is instant.
"""
