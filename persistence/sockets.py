"""What an open socket tells and suffers without a driver's help."""

from __future__ import annotations

import socket


def shut_down(descriptor: int) -> None:
    """End both directions, at which whoever waits on the socket wakes up; the descriptor stays its owner's to close."""
    with socket.fromfd(descriptor, socket.AF_UNIX, socket.SOCK_STREAM) as twin:
        try:
            twin.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other end was faster
