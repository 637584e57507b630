"""Settings of the service, from the environment (prefix DEEPERGATGNN_) and a .env file."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(BaseSettings):
    """Every setting, each with its one default.

    Attributes:
        redis_url: of the broker, Redis 7+ or Valkey 8+; unset: the embedded one.
        model_store: folder of checkpoints; unset: those shipped with the package.
        api_keys: comma-separated; unset: no authentication, and the service binds to loopback only.
        host, port: where the API listens.
        device: of the worker: auto, cpu, cuda, cuda:N.
        threads: of the worker on a CPU; 0 leaves the choice to torch.
        compile_after_s: life of a worker after which it compiles its networks beside the eager ones; 0 for never.
        parse_processes: of the parse pool.
        parse_timeout_s: a file that takes longer is refused.
        parse_memory_mib: address space of a parse process.
        max_body_mib: of a request.
        max_in_flight: crystals admitted and not yet answered, over which requests get 429.
        deadline_s: of a request; a client may shorten it.
        batch_edges, batch_nodes: what the worker computes at once, at most; equivalent atoms count once.
        lease_s: after this long without renewal an entry of a dead worker is taken over.
        max_deliveries: after this many, an entry is dead-lettered.
        heartbeat_s: of workers; one that is silent for three is not counted.
        stuck_s: a batch that takes longer counts as a hung device: no more heartbeats, no renewal.
        absence_s: how long requests are still admitted when the last worker has gone.
        drain_s: how long a stopping process may finish what it has.
        metrics_port: of the worker; unset: none.
        parent, broker_embedded: set by the supervisor for its workers: the process they end with, and whether
            the broker ends with it too.
    """

    model_config = SettingsConfigDict(env_prefix="DEEPERGATGNN_", env_file=".env", extra="ignore", frozen=True)

    redis_url: SecretStr | None = None
    model_store: Path | None = None
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    device: str = "auto"
    threads: int = Field(default=0, ge=0)
    compile_after_s: float = Field(default=20.0, ge=0)
    parse_processes: int = Field(default=2, ge=1)
    parse_timeout_s: float = Field(default=1.5, gt=0)
    parse_memory_mib: int = Field(default=2048, ge=512)
    max_body_mib: float = Field(default=8.0, gt=0)
    max_in_flight: int = Field(default=2048, ge=1)
    deadline_s: float = Field(default=30.0, gt=0)
    batch_edges: int = Field(default=60_000, ge=1)
    batch_nodes: int = Field(default=6_000, ge=1)
    lease_s: float = Field(default=6.0, gt=0)
    max_deliveries: int = Field(default=3, ge=1)
    heartbeat_s: float = Field(default=1.0, gt=0)
    stuck_s: float = Field(default=60.0, gt=0)
    absence_s: float = Field(default=60.0, ge=0)
    drain_s: float = Field(default=10.0, gt=0)
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    parent: int | None = None
    broker_embedded: bool = False

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("redis_url", "model_store", "metrics_port", mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        """An empty variable, as docker compose passes it on, is an unset one."""
        return None if value == "" else value

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.host not in LOOPBACK and not self.api_keys:
            raise ValueError(
                f"host is {self.host!r} but there is no key: set DEEPERGATGNN_API_KEYS, or listen on 127.0.0.1"
            )
        return self
