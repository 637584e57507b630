"""Logs on standard error, with the id of the request wherever there is one: JSON for programs, or lines for people."""

import logging
import sys

import orjson
import structlog

from deepergatgnn.service.settings import LogFormat, LogLevel

LOGGED = 50  # refusals a second
_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
]


def configure_logs(level: LogLevel, form: LogFormat = "auto") -> None:
    """Set the logs of this process up, those of libraries too.

    Args:
        level: below which nothing is written.
        form: an object of JSON a line, or lines for people; `auto` writes the latter to a terminal.
    """
    for_people = form == "console" or (form == "auto" and sys.stderr.isatty())
    prepare, render = _for_people() if for_people else _for_programs()
    structlog.configure(
        processors=[*_SHARED, *prepare, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, *prepare],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _for_programs() -> tuple[list[structlog.typing.Processor], structlog.typing.Processor]:
    """What prepares and what writes an object of JSON."""
    render = structlog.processors.JSONRenderer(lambda document, **_: orjson.dumps(document, default=repr).decode())
    return [structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.format_exc_info], render


def _for_people() -> tuple[list[structlog.typing.Processor], structlog.typing.Processor]:
    """What prepares and what writes a line to read, its time that of the reader; colours on a terminal only."""
    render = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)], render


class LineLimit:
    """The first lines of every second; the others are counted, for a line of each refusal costs.

    Args:
        log: told how many there were.
    """

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._second, self._refused = 0, 0

    def worth_a_line(self, second: int) -> bool:
        """Whether what happens in this second is one of its first."""
        if second != self._second:
            if self._refused > LOGGED:
                self._log.warning("more refusals than lines", refused=self._refused, logged=LOGGED)
            self._second, self._refused = second, 0
        self._refused += 1
        return self._refused <= LOGGED
