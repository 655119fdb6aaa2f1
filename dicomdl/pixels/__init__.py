"""One frame's stored values. The doors to the codecs."""
