"""Which objects a head's predictions are to learn: assignment of boxes and labels to points, peaks and queries."""
