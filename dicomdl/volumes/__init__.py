"""Stacks as arrays on a grid: whole, in blocks, on other grids. The door to SimpleITK."""
