"""`serve` and `worker`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.options import StoreOption
from deepergatgnn.errors import ConfigError

if TYPE_CHECKING:
    from service.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address; beyond loopback only with keys.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Worker processes here. Default: 1 with the embedded broker, 0 with REDIS_URL.", min=0),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Serve predictions over HTTP; without DEEPERGATGNN_REDIS_URL with a broker and a worker of its own.

    Example: deepergatgnn serve --port 8000
    """
    from service.authentication import Keys
    from service.supervisor import run

    settings = _settings(host=host, port=port, model_store=store)
    if not Keys.of(settings):
        print("no API keys: listening on this machine only", flush=True)
    run(settings, workers, lambda address: print(f"ready on {address}", flush=True))


def worker(store: StoreOption = None) -> None:
    """Run one worker on the broker of DEEPERGATGNN_REDIS_URL.

    Example: DEEPERGATGNN_REDIS_URL=redis://127.0.0.1:6379/0 deepergatgnn worker
    """
    settings = _settings(model_store=store)
    if settings.redis_url is None:
        raise ConfigError("a worker needs a broker: set DEEPERGATGNN_REDIS_URL, for example redis://127.0.0.1:6379/0")
    from service.worker import run

    run(settings, settings.redis_url.get_secret_value())


def _settings(**given: Path | str | int | None) -> "Settings":
    from pydantic import ValidationError

    from service.settings import Settings

    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    try:
        return Settings(**options)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        raise ConfigError(reasons) from None
