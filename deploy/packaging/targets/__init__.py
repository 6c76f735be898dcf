"""Kinds of machines; one file each, with ``TARGET``."""
