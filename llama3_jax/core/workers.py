"""Worker processes that do not outlive the process that started them."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Initializer of a pool's processes: each ends when its parent does, which kill -9 keeps from telling them."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="end_with_parent").start()
