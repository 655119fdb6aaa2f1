"""Jobs over many files or an index: the scan, and the check of pixels by a second decoder."""
