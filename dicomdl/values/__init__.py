"""What numbers mean: rescale, lookup tables, SUV, windows, "auto"."""
