"""``deploy bench``: how long bundles take on this machine, part by part, beside what was proven of them."""
