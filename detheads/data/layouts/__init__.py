"""Layouts of dataset folders: one file each, called like the layout (see :class:`detheads.data.layout.Layout`)."""
