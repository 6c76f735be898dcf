"""From a folder of pictures with boxes to a proven bundle and a page, within a time; see :mod:`detheads.make.run`."""
