"""Loaded, beside the worker's module, by the server from which launched processes are forked.

So torch is loaded once for all of them. A scheduler signals every process of a job: the server leaves that to those
that train, and they take SIGTERM back (`processes/launch`).
"""

import signal

for _number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(_number, signal.SIG_IGN)
