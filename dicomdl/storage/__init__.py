"""Where bytes live, theirs and ours: files as the scan saw them, folders, caches, child processes.

Knows no DICOM."""
