"""Imported by the fork server alone, once for all parse processes.

systemd sends SIGTERM to every process of the service. The fork server ignores it, as parse processes do: the API
finishes its requests first and then ends them.
"""

import signal

import deepergatgnn.service.parsing.process  # noqa: F401 - inherited by every parse process

signal.signal(signal.SIGTERM, signal.SIG_IGN)
