"""One file per algorithm, in the order of its paper."""
