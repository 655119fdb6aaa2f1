"""Positions -> order, affine, verdict, stacks. Pure NumPy."""
