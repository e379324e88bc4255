"""Loaded, beside the worker's module, by the server from which launched processes are forked.

So torch is loaded once for all of them. A scheduler signals every process of a job: the server leaves that to those
that train, and they take SIGTERM back (`processes/launch`).
"""

import signal

from cikd_cli.system import signals

for _number in signals("SIGTERM", "SIGUSR1"):
    signal.signal(_number, signal.SIG_IGN)
