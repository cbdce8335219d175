"""What an open socket tells and suffers without a driver's help."""

from __future__ import annotations

import select
import socket


def is_readable(descriptor: int) -> bool:
    """Tell whether there is something to read; on an idle connection that can only be the server's goodbye."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))


def shut_down(descriptor: int) -> None:
    """End both directions, at which whoever waits on the socket wakes up; the descriptor stays its owner's to close."""
    with socket.fromfd(descriptor, socket.AF_UNIX, socket.SOCK_STREAM) as twin:
        try:
            twin.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other end was faster
