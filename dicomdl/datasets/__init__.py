"""PyTorch datasets, samplers and streams. torch is imported here and in `interop` alone."""
