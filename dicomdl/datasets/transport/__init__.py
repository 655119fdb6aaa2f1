"""How batches leave a loader's worker: pixels in shared memory that both processes keep mapped.

torch sends each tensor of a batch in shared memory of its own, which is created, zeroed, passed
through a socket, mapped and thrown away. That takes longer than reading the pixels did. Here a
worker keeps a pool of buffers and leases them again and again; the receiver maps a buffer the first
time it sees it.

A buffer is reused only when no process references its contents. The receiver clears a flag in the
first page of the buffer when its last view is garbage-collected, the worker holds a weak reference
to its own view, and a buffer that a forked child can see is never reused. A batch belongs to the
receiver alone: where code in the worker still holds an image that was made in a buffer, a copy is
sent. Buffers have no names in any file system, so they end with the processes that map them.

Tensors go torch's way where no buffer is free, where this system or torch lacks what buffers need
(a self-check says so in a warning), and where the environment variable ``DICOMDL_TRANSPORT`` is
``torch`` instead of ``auto``.
"""
