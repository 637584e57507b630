"""Settings of the service, from environment variables with the prefix DEEPERGATGNN_."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import structlog
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from deepergatgnn.errors import ConfigError
from deepergatgnn.service.lanes import BULK, INTERACTIVE, Lane

PREFIX = "DEEPERGATGNN_"
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "console"]
DAY_S = 86_400.0
Seconds = Annotated[float, Field(gt=0, le=DAY_S)]
SecondsOrZero = Annotated[float, Field(ge=0, le=DAY_S)]
Names = Annotated[tuple[str, ...], NoDecode]  # comma-separated in the environment
# The value that Kubernetes sets in every container for a Service named deepergatgnn, or deepergatgnn-metrics.
SERVICE_LINK = re.compile(r"(?:tcp|udp|sctp)://\S+", re.IGNORECASE)
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
BROKER_SCHEMES = frozenset({"redis", "rediss", "unix"})
SECRETS = frozenset({"redis_url", "api_keys"})  # never in a message
log = structlog.get_logger("settings")
NAMES = {
    "allowed_hosts": (r"[A-Za-z0-9.:_-]+", "a name or address without port, as in crystals.example.org"),
    "cors_origins": (r"https?://[A-Za-z0-9.:_\[\]-]+", "scheme, name and port, as in https://lab.example.org"),
}
ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
# First parts that a root path must not have, since a proxy may strip it or not.
OWN_PATHS = frozenset({"predict", "jobs", "models", "healthz", "readyz", "metrics", "docs", "openapi.json", ".", ".."})


class Settings(BaseSettings):
    """Every setting with its default.

    Attributes:
        redis_url: URL of the broker, Redis 7+ or Valkey 8+; unset: an embedded Valkey server.
        model_store: folder of checkpoints; unset: the shipped ones.
        models: comma-separated NAME or NAME@VERSION of the models to serve; unset: all of the store.
        api_keys: comma-separated, each a key or `NAME sha256:HEX [rate=N] [burst=N] [disabled]`; without keys and key
            file there is no authentication, and the API binds to loopback only.
        api_keys_file: file of such lines, read again when it changes.
        metrics_open: whether /metrics needs no key where other routes do.
        allowed_hosts: comma-separated host names of the service beside loopback's; unset: any with keys, else none.
        cors_origins: comma-separated origins of pages that may send requests; unset: none.
        host, port: address of the API.
        root_path: prefix of the routes behind a reverse proxy, such as /crystals, whether the proxy strips it or not.
        device: of the worker: auto, cpu, cuda, cuda:N.
        threads: of the worker on a CPU; 0: the measured optimum that leaves a core to parsing.
        compile_after_s: age at which a worker compiles its networks; 0: never.
        parse_processes: number of parse processes.
        parse_timeout_s: processor time after which a file is refused.
        parse_memory_mib: address space of a parse process.
        max_body_mib: size of a request body.
        max_bodies_mib: size of all request bodies in memory; above it, long ones get 429.
        body_timeout_s: time for a body to arrive; a long one gets more while it keeps coming.
        header_timeout_s: time for the request line and headers to arrive.
        answer_timeout_s: time for the client to read some more of a response.
        max_answers_mib: size of all unread responses; above it, the slowest clients are disconnected.
        max_head_kib: size of the request line and headers.
        max_connections: of clients, within the limit of open files.
        max_wait_s: predicted wait above which a single crystal gets 429, unless its client has less than its share.
        max_bulk_wait_s: likewise for a bulk request.
        max_bulk: structures of a bulk request.
        max_bulk_body_mib: size of a bulk request body.
        deadline_s, bulk_deadline_s: of a request; a client may shorten it.
        batch_s: predicted seconds of a batch.
        batch_edges: edges of a batch after symmetry reduction; the memory of a GPU may allow fewer.
        prefetch: whether a worker prepares the next batch while one computes; auto: on a GPU only, since both would
            share the cores of a CPU.
        cache_entries: results that each API process caches; 0: none.
        lease_s: time after which an entry of a dead worker is taken over.
        max_deliveries: deliveries after which an entry is dead-lettered.
        heartbeat_s: interval of the heartbeats of workers, which expire after three.
        stuck_s: a device counts as hung when a batch takes this much longer than five times its prediction, or more
            than six seconds and twice its prediction. A hung worker sends no heartbeats, renews no leases, and exits
            after six times `stuck_s`.
        absence_s: time for which requests are admitted after the last worker has gone.
        drain_grace_s: time for which the API accepts requests after SIGTERM, with /readyz at 503; none after Ctrl-C.
        drain_s: time to finish requests afterwards.
        log_level: debug, info, warning or error; requests are logged at info, refused keys at warning.
        log_format: json, one object a line; console, readable lines; auto: console on a terminal.
        metrics_port: of the worker; unset: none.
        tracing: whether to send OpenTelemetry traces (extra `tracing`).
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, allow_inf_nan=False, env_ignore_empty=True
    )

    redis_url: SecretStr | None = None
    model_store: Path | None = None
    models: Names = ()
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    api_keys_file: Path | None = None
    metrics_open: bool = False
    allowed_hosts: Names = ()
    cors_origins: Names = ()
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    root_path: str = ""
    device: str = "auto"
    threads: int = Field(default=0, ge=0, le=1_024)
    compile_after_s: SecondsOrZero = 20.0
    parse_processes: int = Field(default=2, ge=1, le=256)
    parse_timeout_s: Seconds = 1.5
    parse_memory_mib: int = Field(default=2048, ge=512, le=1_048_576)
    max_body_mib: float = Field(default=8.0, gt=0, le=4_096)
    max_bodies_mib: float = Field(default=512.0, gt=0, le=1_048_576)
    body_timeout_s: Seconds = 10.0
    header_timeout_s: Seconds = 10.0
    answer_timeout_s: Seconds = 30.0
    max_answers_mib: float = Field(default=256.0, gt=0, le=1_048_576)
    max_head_kib: int = Field(default=64, ge=1, le=65_536)
    max_connections: int = Field(default=4096, ge=1, le=1_000_000)
    max_wait_s: Seconds = INTERACTIVE.max_wait_s
    max_bulk_wait_s: Seconds = BULK.max_wait_s
    max_bulk: int = Field(default=1024, ge=1, le=1_000_000)
    max_bulk_body_mib: float = Field(default=16.0, gt=0, le=4_096)
    deadline_s: Seconds = INTERACTIVE.deadline_s
    bulk_deadline_s: Seconds = BULK.deadline_s
    batch_s: Seconds = 0.1
    batch_edges: int = Field(default=60_000, ge=1, le=1_000_000_000)
    prefetch: Literal["auto", "on", "off"] = "auto"
    cache_entries: int = Field(default=0, ge=0, le=100_000_000)
    lease_s: Seconds = 6.0
    max_deliveries: int = Field(default=3, ge=1, le=1_000)
    heartbeat_s: Seconds = 1.0
    stuck_s: Seconds = 5.0
    absence_s: SecondsOrZero = 60.0
    drain_grace_s: SecondsOrZero = 2.0
    drain_s: Seconds = 10.0
    log_level: LogLevel = "warning"
    log_format: LogFormat = "auto"
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    tracing: bool = False

    @field_validator("api_keys", "allowed_hosts", "cors_origins", "models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("cors_origins", "allowed_hosts")
    @classmethod
    def _plain(cls, values: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Refuse patterns: a wildcard origin would let every page in."""
        pattern, example = NAMES[info.field_name or ""]
        for value in values:
            if not re.fullmatch(pattern, value):
                raise ValueError(f"{value!r} is not allowed here: write {example}")
        return tuple(value.lower() for value in values)

    @field_validator("root_path")
    @classmethod
    def _path(cls, value: str) -> str:
        path = value.rstrip("/")
        if not ROOT_PATH.fullmatch(path):
            raise ValueError(f"{value!r} is not a path: write it as in /crystals or /lab/crystals")
        if path and path.split("/")[1] in OWN_PATHS:
            raise ValueError(f"{value!r} begins as a path of the service itself: take another name")
        return path

    @field_validator("port", "metrics_port", mode="before")
    @classmethod
    def _no_service_link(cls, value: object, info: ValidationInfo) -> object:
        if not (isinstance(value, str) and SERVICE_LINK.fullmatch(value)):
            return value
        name = info.field_name or ""
        default = cls.model_fields[name].default
        log.warning(
            "ignored: Kubernetes sets it for a Service of that name; set `enableServiceLinks: false`",
            variable=PREFIX + name.upper(),
            value=value,
            used=default,
        )
        return default

    @field_validator("redis_url")
    @classmethod
    def _is_broker(cls, value: SecretStr | None) -> SecretStr | None:
        """Refuse other URLs without quoting them, since they may contain a password."""
        if value is None:
            return None
        example = "write redis://HOST:PORT/0, rediss://HOST:PORT/0 or unix:///PATH"
        try:
            parts = urlsplit(value.get_secret_value())
            _ = parts.port
        except ValueError as error:
            reason = "its port is not a number" if "port" in str(error).lower() else "it is not a URL"
            raise ValueError(f"{reason}: {example}") from None
        if parts.scheme not in BROKER_SCHEMES:
            raise ValueError(f"its scheme is not that of a broker: {example}")
        if not (parts.path if parts.scheme == "unix" else parts.hostname):
            raise ValueError(f"it names no host: {example}")
        return value

    @field_validator("model_store")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("tracing")
    @classmethod
    def _installed(cls, value: bool) -> bool:
        if value and not all(map(find_spec, ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter"))):
            raise ValueError("traces need OpenTelemetry: pip install 'deepergatgnn[tracing]'")
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.host not in LOOPBACK and not self.api_keys and self.api_keys_file is None:
            raise ValueError(
                f"host is {self.host!r} but there is no key: set DEEPERGATGNN_API_KEYS or DEEPERGATGNN_API_KEYS_FILE, "
                "or listen on 127.0.0.1"
            )
        return self

    def max_wait_of(self, lane: Lane) -> float:
        """Return the predicted seconds of queued work above which requests of a lane are refused."""
        return {INTERACTIVE: self.max_wait_s, BULK: self.max_bulk_wait_s}.get(lane, lane.max_wait_s)

    def environment(self) -> dict[str, str]:
        """Return the environment variables of these settings."""
        return {PREFIX + name.upper(): _text(value) for name, value in self if value is not None}


def _text(value: object) -> str:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return ",".join(map(_text, value))
        case _:
            return str(value)


def is_setting(variable: str) -> bool:
    """Return whether an environment variable is a setting."""
    name = variable.lower()
    return name.startswith(PREFIX.lower()) and name.removeprefix(PREFIX.lower()) in Settings.model_fields


def read_settings(**given: Any) -> Settings:
    """Return the settings: given values before the environment before the defaults.

    Raises:
        ConfigError: if a value is invalid; names each and its source.
    """
    options = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**options)
    except ValidationError as error:
        reasons = "; ".join(_reason(each, options) for each in error.errors(include_url=False))
        raise ConfigError(reasons) from None


def _reason(error: Any, options: Mapping[str, Any]) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    where = f"--{name.replace('_', '-').removeprefix('model-')}" if name in options else PREFIX + name.upper()
    shown = f" is {str(error['input'])[:80]!r}" if name not in SECRETS else ""
    return f"{where}{shown}: {message}"
