"""The zygote: a small single-threaded process that forks one monitor per container or exec.

Run as `python -I -S zygote.py FD RUNTIME`; the daemon itself has threads and must never fork. RUNTIME is the OCI
runtime's program, of which all monitors use one sealed copy. FD is a SOCK_SEQPACKET socket to the daemon: each message
is a monitor's plan (JSON) with one descriptor, the monitor's control connection. It ends when the daemon does; its
monitors do not. Standard library only, so that a forked monitor stays small.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))

from worker.engine.runtime import monitor, sealed

MAX_MESSAGE = 64 * 1024


def serve(daemon: socket.socket, program: str) -> None:
    """Fork monitors that use `program` until the daemon hangs up."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors that leave are reaped by the kernel
    # Ctrl-C in the daemon's terminal reaches its whole process group; only its hanging up ends the zygote.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(daemon, MAX_MESSAGE, 1)
        except OSError:
            return
        if not message:
            return
        if len(descriptors) != 1:
            continue
        connection = socket.socket(fileno=descriptors[0])
        if os.fork() == 0:
            daemon.close()
            monitor.main(json.loads(message), program, connection)
        connection.close()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sealed.copy(sys.argv[2]))
