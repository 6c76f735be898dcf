"""The classes of a dataset held against those of a model: :mod:`detheads.data.same_classes`."""

from detheads.data.same_classes import of_these_classes as of_these_classes
