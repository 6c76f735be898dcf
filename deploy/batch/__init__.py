"""Folders of millions of pictures, in parts that processes or a Ray cluster work on, each written exactly once."""
