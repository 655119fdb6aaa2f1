"""Caches of decoded stacks: on disk, or in memory that processes share.

A cache only saves time. An entry that is damaged, stale, evicted or foreign, or that cannot be
written, is computed again and counted in `stats()`. It never causes a wrong value or an error.
Locks only spare work: without them, entries are computed more often. Therefore a writer publishes a
complete new file by one `os.replace`, and a checksum protects every block of an entry. Values that
depend on chance must not be cached, and no code is loaded from data.

keys            the files and options that an entry stands for
entries         the arrays that go into a cache and the entries that come out
_layout         the format of an entry
_stored         an entry of that format, read from a source
_file_source    a file as a source
folder          the files of a disk cache: writing, orphans, reports
_ring           entries in shared memory
_base           lookup, computation on a miss, storage and counts
disk, memory    the two caches
stats           counts that a cache reports, and the protocol of caches
options         values of the option `cache=`
"""
