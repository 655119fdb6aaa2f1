"""Storage of bytes: source files as the scan saw them, folders, caches and child processes.

The package is independent of DICOM. It is the only one that opens files of users.
"""
