"""Whether what a detector sees in the field is still what it was proven on."""
