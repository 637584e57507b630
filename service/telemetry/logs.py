"""Logs on standard error, with the request id where there is one: JSON lines, or readable lines on a terminal."""

import logging
import sys

import orjson
import structlog
from structlog.typing import Processor

from deepergatgnn.service.settings import LogFormat, LogLevel

LOGGED = 50  # lines a second


def configure_logs(level: LogLevel, form: LogFormat = "auto") -> None:
    """Configure the logs of this process, including those of libraries.

    Args:
        level: the least severe level that is written.
        form: `json`, one object a line; `console`, readable lines; `auto`, `console` on a terminal, else `json`.
    """
    terminal = sys.stderr.isatty()
    prepare: list[Processor]
    render: Processor
    if form == "console" or (form == "auto" and terminal):
        prepare = [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)]
        render = structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=structlog.dev.plain_traceback)
    else:
        prepare = [structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.format_exc_info]
        render = structlog.processors.JSONRenderer(lambda document, **_: orjson.dumps(document, default=repr).decode())
    prepare = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        *prepare,
    ]
    structlog.configure(
        processors=[*prepare, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=prepare,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class LineLimit:
    """Limits the log lines about refusals to `LOGGED` a second and logs how many were left out.

    Args:
        log: gets the count, with the first refusal of a later second.
    """

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._second, self._refused = 0, 0

    def worth_a_line(self, second: int) -> bool:
        """Count a refusal; return whether it is among the first `LOGGED` of its second."""
        if second != self._second:
            if self._refused > LOGGED:
                self._log.warning("refusals suppressed in log", refused=self._refused, logged=LOGGED)
            self._second, self._refused = second, 0
        self._refused += 1
        return self._refused <= LOGGED
