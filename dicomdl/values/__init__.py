"""Values: the meaning of numbers, by rescale, lookup tables, SUV, windows and "auto"."""
