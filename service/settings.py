"""Settings of the service, from the environment (prefix DEEPERGATGNN_); a `.env` file was read into that before."""

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
DAY_S = 86_400.0  # no time of a setting is longer
# What Kubernetes sets in every container for a Service named deepergatgnn, or deepergatgnn-metrics.
SERVICE_LINK = re.compile(r"(?:tcp|udp|sctp)://\S+", re.IGNORECASE)
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
BROKER_SCHEMES = frozenset({"redis", "rediss", "unix"})
SECRETS = frozenset({"redis_url", "api_keys"})  # shown in no message
log = structlog.get_logger("settings")
NAMES = {
    "allowed_hosts": (r"[A-Za-z0-9.:_-]+", "a name or address without port, as in crystals.example.org"),
    "cors_origins": (r"https?://[A-Za-z0-9.:_\[\]-]+", "scheme, name and port, as in https://lab.example.org"),
}
ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
# A proxy that takes the root path off itself would make its first part look like one of these.
OWN_PATHS = frozenset({"predict", "jobs", "models", "healthz", "readyz", "metrics", "docs", "openapi.json", ".", ".."})


class Settings(BaseSettings):
    """Every setting, each with its one default.

    Attributes:
        redis_url: of the broker, Redis 7+ or Valkey 8+; unset: the embedded one.
        model_store: folder of checkpoints; unset: those shipped with the package.
        models: comma-separated NAME or NAME@VERSION of those that are served, as if the store held no others; unset:
            all.
        api_keys: comma-separated, each a key or `NAME sha256:HEX [rate=N] [burst=N] [disabled]`; unset, and no file:
            no authentication, and the service binds to loopback only.
        api_keys_file: a file of such lines, read again when it changes; see service/keys.py.
        metrics_open: with keys, /metrics needs none.
        allowed_hosts: comma-separated names the service may be called by, beside loopback's; unset: without keys
            loopback's alone, with keys any.
        cors_origins: comma-separated origins whose pages may send requests; unset: none.
        host, port: where the API listens.
        root_path: beneath which a reverse proxy serves it, such as /crystals, whether the proxy takes it off or not.
        device: of the worker: auto, cpu, cuda, cuda:N.
        threads: of the worker on a CPU; 0: as many as are measured to be fastest beside what else runs, which leave
            a core for parsing.
        compile_after_s: life of a worker after which it compiles its networks beside the eager ones; 0 for never.
        parse_processes: of the parse pool.
        parse_timeout_s: of processor time; a file that takes more is refused.
        parse_memory_mib: address space of a parse process.
        max_body_mib: of a request.
        max_bodies_mib: of all requests under way together; above it, long bodies get 429.
        body_timeout_s: for a body to arrive; more for a long one that keeps coming.
        header_timeout_s: for a request line and headers to arrive.
        answer_timeout_s: for some more of an answer to be taken; not for all of it.
        max_answers_mib: of all answers that clients have not taken yet; above it, the slowest lose theirs.
        max_head_kib: of a request line and headers.
        max_connections: of clients at once, as far as the limit of open files allows.
        max_wait_s: predicted seconds of work before a single crystal over which it gets 429, unless its client has less
            than its share.
        max_bulk_wait_s: likewise for a bulk request.
        max_bulk: structures of a bulk request.
        max_bulk_body_mib: of a bulk request.
        deadline_s, bulk_deadline_s: of a request; a client may shorten it.
        batch_s: predicted seconds of what the worker computes at once.
        batch_edges: edges of it, at most; equivalent atoms count once. A GPU's memory may allow fewer.
        prefetch: whether the worker prepares the next batch while one computes: on, off, or auto, that is on a GPU;
            on a CPU both would want the same cores.
        cache_entries: results kept by each API process, by crystal and version; 0 for none.
        lease_s: after this long without renewal an entry of a dead worker is taken over.
        max_deliveries: after this many, an entry is dead-lettered.
        heartbeat_s: of workers; one that is silent for three is not counted.
        stuck_s: a batch that takes this much longer than five times its prediction counts as a hung device, and one of
            more than six seconds if that is not twice its prediction: no more heartbeats, no renewal, and after six
            times `stuck_s` the worker ends.
        absence_s: how long requests are still admitted when the last worker has gone.
        drain_grace_s: after SIGTERM, how long the API goes on as before but for /readyz, so that who sends requests
            notices; Ctrl-C does without.
        drain_s: how long a stopping process may then finish what it has.
        log_level: debug, info, warning or error; every request is a line of info, a refused key one of warning.
        log_format: json, an object a line; console, for people; auto, that is console on a terminal.
        metrics_port: of the worker; unset: none.
        tracing: send OpenTelemetry traces; needs the extra `tracing`.
        parent, broker_embedded: set by the supervisor for its workers: the process they end with, and whether
            the broker ends with it too.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, allow_inf_nan=False, env_ignore_empty=True
    )

    redis_url: SecretStr | None = None
    model_store: Path | None = None
    models: Annotated[tuple[str, ...], NoDecode] = ()
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    api_keys_file: Path | None = None
    metrics_open: bool = False
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    root_path: str = ""
    device: str = "auto"
    threads: int = Field(default=0, ge=0, le=1_024)
    compile_after_s: float = Field(default=20.0, ge=0, le=DAY_S)
    parse_processes: int = Field(default=2, ge=1, le=256)
    parse_timeout_s: float = Field(default=1.5, gt=0, le=DAY_S)
    parse_memory_mib: int = Field(default=2048, ge=512, le=1_048_576)
    max_body_mib: float = Field(default=8.0, gt=0, le=4_096)
    max_bodies_mib: float = Field(default=512.0, gt=0, le=1_048_576)
    body_timeout_s: float = Field(default=10.0, gt=0, le=DAY_S)
    header_timeout_s: float = Field(default=10.0, gt=0, le=DAY_S)
    answer_timeout_s: float = Field(default=30.0, gt=0, le=DAY_S)
    max_answers_mib: float = Field(default=256.0, gt=0, le=1_048_576)
    max_head_kib: int = Field(default=64, ge=1, le=65_536)
    max_connections: int = Field(default=4096, ge=1, le=1_000_000)
    max_wait_s: float = Field(default=INTERACTIVE.max_wait_s, gt=0, le=DAY_S)
    max_bulk_wait_s: float = Field(default=BULK.max_wait_s, gt=0, le=DAY_S)
    max_bulk: int = Field(default=1024, ge=1, le=1_000_000)
    max_bulk_body_mib: float = Field(default=16.0, gt=0, le=4_096)
    deadline_s: float = Field(default=INTERACTIVE.deadline_s, gt=0, le=DAY_S)
    bulk_deadline_s: float = Field(default=BULK.deadline_s, gt=0, le=DAY_S)
    batch_s: float = Field(default=0.1, gt=0, le=DAY_S)
    batch_edges: int = Field(default=60_000, ge=1, le=1_000_000_000)
    prefetch: Literal["auto", "on", "off"] = "auto"
    cache_entries: int = Field(default=0, ge=0, le=100_000_000)
    lease_s: float = Field(default=6.0, gt=0, le=DAY_S)
    max_deliveries: int = Field(default=3, ge=1, le=1_000)
    heartbeat_s: float = Field(default=1.0, gt=0, le=DAY_S)
    stuck_s: float = Field(default=5.0, gt=0, le=DAY_S)
    absence_s: float = Field(default=60.0, ge=0, le=DAY_S)
    drain_grace_s: float = Field(default=2.0, ge=0, le=DAY_S)
    drain_s: float = Field(default=10.0, gt=0, le=DAY_S)
    log_level: LogLevel = "warning"
    log_format: LogFormat = "auto"
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    tracing: bool = False
    parent: int | None = None
    broker_embedded: bool = False

    @field_validator("api_keys", "allowed_hosts", "cors_origins", "models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("cors_origins", "allowed_hosts")
    @classmethod
    def _plain(cls, values: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """No patterns, and an origin as browsers write it: a wildcard would let every page in."""
        pattern, example = NAMES[info.field_name or ""]
        for value in values:
            if not re.fullmatch(pattern, value):
                raise ValueError(f"{value!r} is not allowed here: write {example}")
        return tuple(value.lower() for value in values)

    @field_validator("redis_url", "model_store", "api_keys_file", "metrics_port", mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        """An empty variable, as docker compose passes it on, is an unset one."""
        return None if value == "" else value

    @field_validator("root_path")
    @classmethod
    def _path(cls, value: str) -> str:
        path = value.rstrip("/")
        if not ROOT_PATH.fullmatch(path):
            raise ValueError(f"{value!r} is no path: write it as in /crystals or /lab/crystals")
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
        """The text may hold a password, and is in no message."""
        if value is None:
            return None
        example = "write redis://HOST:PORT/0, rediss://HOST:PORT/0 or unix:///PATH"
        try:
            parts = urlsplit(value.get_secret_value())
            _ = parts.port
        except ValueError as error:
            reason = "its port is no number" if "port" in str(error).lower() else "it is no URL"
            raise ValueError(f"{reason}: {example}") from None
        if parts.scheme not in BROKER_SCHEMES:
            raise ValueError(f"it has no scheme of a broker: {example}")
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

    def deadline_of(self, lane: Lane) -> float:
        """Return the seconds until a request of a lane fails."""
        return {INTERACTIVE: self.deadline_s, BULK: self.bulk_deadline_s}.get(lane, lane.deadline_s)

    def environment(self) -> dict[str, str]:
        """The variables from which another process gets these very settings; what is unset has none."""
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
    """Whether an environment variable is one of the settings."""
    name = variable.lower()
    return name.startswith(PREFIX.lower()) and name.removeprefix(PREFIX.lower()) in Settings.model_fields


def read_settings(**given: Any) -> Settings:
    """The settings: what is given, for the rest the environment, for the rest the defaults.

    Raises:
        ConfigError: one sentence that names each bad value and where it comes from.
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
