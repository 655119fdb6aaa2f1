"""The transport of batches out of a worker: pixels in shared memory that both processes map.

torch sends each tensor of a batch in new shared memory, which is created, zeroed, passed through a
socket, mapped and discarded. That takes longer than reading the pixels. This package holds a pool
of buffers in each worker and leases them repeatedly. The receiver maps a buffer at its first lease.

A buffer is reused only when no process references its contents. The receiver clears a flag in the
first page of the buffer when its last view is garbage-collected. The worker holds a weak reference
to its own view. A buffer that a forked child can see is never reused. A batch belongs to the
receiver alone: if code in the worker still references an image in a buffer, a copy is sent. Buffers
have no names in any file system, so they end with the processes that map them.

torch sends the tensors itself in three cases: no buffer is free; this system or torch lacks a
function that buffers need (a self-check warns of it); or the environment variable
``DICOMDL_TRANSPORT`` is ``torch`` instead of ``auto``.
"""
