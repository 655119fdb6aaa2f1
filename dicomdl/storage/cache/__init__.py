"""Caches of decoded stacks: on disk, or in memory that processes share.

A cache only saves time. An entry that is damaged, stale, evicted or foreign, or that cannot be
written, is made again and counted in `stats()`: never a wrong value, and never an error. Locks only
spare work; without them entries are made more often. So a writer puts a whole new file in place by
one `os.replace`, and every block of an entry is behind a checksum. Values that depend on chance may
not be cached, and no code is loaded from data.

keys            which files and options an entry stands for
entries         what a cache is given and what it returns
layout          the format of an entry
stored          reads an entry of that format from a source
file_source     a file as a source
folder          the files of a disk cache: written, orphaned, reported
ring            entries in shared memory
base            look up, else make once, store and count
disk, memory    the two caches
stats           what a cache reports
options         what users pass
"""
