"""From a folder of DICOM to PyTorch batches: right, fast, and without a detour through another file format."""
