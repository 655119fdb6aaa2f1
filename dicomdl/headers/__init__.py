"""Header reading: the facts of the frames of one file, and the byte ranges of their pixels.

Together with `pixels`, this package is the only one that imports pydicom.
"""
