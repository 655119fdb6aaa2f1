"""Header reading: the facts of the frames of one file, and the byte ranges of their pixels.

pydicom has its door here. `pixels` and `jobs` import only its decoders.
"""
