"""web: headers of DICOMweb instances in processes that fork."""

import os

from cache_entries import in_a_fork, posix_only

from dicomdl.headers import web


@posix_only
def test_a_fork_while_another_thread_makes_a_header_leaves_the_child_free() -> None:
    def makes_one() -> None:
        assert web._turn.lock.acquire(timeout=5)

    # The fork sees a lock that is held, as by another thread.
    with web._turn.lock:
        assert in_a_fork(makes_one) == os.EX_OK
