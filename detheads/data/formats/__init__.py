"""Annotation formats of other tools: one file each, called like the format (:class:`detheads.data.foreign.Format`)."""
