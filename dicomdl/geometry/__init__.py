"""Order, affine, verdict and stacks from positions and orientations, in pure NumPy."""
