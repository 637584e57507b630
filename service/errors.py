"""Errors of the service: a code and one sentence. The HTTP status of a code is decided in `http.problems` alone."""

from deepergatgnn.errors import DeeperGATGNNError


class ServiceError(DeeperGATGNNError):
    """A request, or one of its crystals, that gets no prediction.

    Attributes:
        code: machine-readable reason, a key of `http.problems.STATUSES` or the code of a refused structure.
        detail: one sentence that says what to change.
        retry_after_s: seconds after which a retry may succeed; None where the code does not depend on time.
    """

    def __init__(self, code: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.retry_after_s = code, detail, retry_after_s


def draining() -> ServiceError:
    """Return the error of a process that shuts down."""
    return ServiceError("draining", "the service is shutting down: retry elsewhere", 5)


def broker_unavailable() -> ServiceError:
    """Return the error of a broker that cannot be reached."""
    return ServiceError("broker_unavailable", "the queue cannot be reached: retry soon", 2)


def parsing_delayed(why: str) -> ServiceError:
    """Return the error of a file that was not read for a reason that is not in the file."""
    return ServiceError("parsing_delayed", f"{why}: retry later", 5)


def unforeseen() -> ServiceError:
    """Return the error that stands for an unexpected exception, whose text belongs in the log only."""
    return ServiceError("internal", "the service failed: report the request id")
