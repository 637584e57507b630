"""The error that an HTTP answer is made of; parse processes have it too, which know no HTTP."""

from deepergatgnn.errors import DeeperGATGNNError


class ServiceError(DeeperGATGNNError):
    """An answer that is not a prediction.

    Attributes:
        status: HTTP status.
        code: machine-readable reason.
        detail: one sentence that says what to change.
        retry_after_s: when to come again, for 429 and 503.
    """

    def __init__(self, status: int, code: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.retry_after_s = status, code, detail, retry_after_s
