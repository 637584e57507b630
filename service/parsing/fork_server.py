"""What the fork server of the parse processes imports, once for all of them.

A SIGTERM that systemd sends to every process of the service must not end those that parse what is under way: the API,
which is told too, ends them when it is done.
"""

import signal

import deepergatgnn.service.parsing.process  # noqa: F401 - so that no parse process imports it anew

signal.signal(signal.SIGTERM, signal.SIG_IGN)
