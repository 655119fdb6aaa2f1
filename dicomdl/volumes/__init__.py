"""Stacks as arrays on a grid: whole, in blocks, resampled. The door to SimpleITK and nibabel."""
