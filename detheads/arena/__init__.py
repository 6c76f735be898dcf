"""Train and compare any set of heads on the same features under the same budget."""
