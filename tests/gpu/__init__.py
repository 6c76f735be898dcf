"""What only a GPU shows. The same tests run on the processor, too, where they can, which shows that they work."""
