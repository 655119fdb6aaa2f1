"""lazy: properties that are computed once, in processes that fork."""

import signal
import threading

from cache_entries import in_a_fork, posix_only

from dicomdl.lazy import cached_property


@posix_only
def test_a_fork_while_another_thread_computes_a_property_leaves_the_child_free() -> None:
    begun, forked = threading.Event(), threading.Event()

    class Slow:
        @cached_property
        def value(self) -> int:
            if threading.current_thread() is not threading.main_thread():
                begun.set()
                forked.wait(60)
            return 7

    def read() -> None:
        # Ends the child where it waits for a lock.
        signal.alarm(20)
        assert Slow().value == 7

    thread = threading.Thread(target=lambda: Slow().value)
    thread.start()
    assert begun.wait(60)
    try:
        assert in_a_fork(read) == 0
    finally:
        forked.set()
        thread.join()
