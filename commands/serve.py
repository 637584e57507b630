"""`serve` and `worker`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.options import StoreOption
from deepergatgnn.errors import ConfigError
from model_store import SelectedModels

if TYPE_CHECKING:
    from service.settings import Settings

ModelsOption = Annotated[
    str | None,
    typer.Option(
        help="NAME or NAME@VERSION, separated by commas, of those to serve; $DEEPERGATGNN_MODELS, else all.",
        metavar="A,B@1.0.0",
    ),
]


def serve(
    host: Annotated[str | None, typer.Option(help="Address; beyond loopback only with keys.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Worker processes here. Default: 1 with the embedded broker, 0 with REDIS_URL.", min=0),
    ] = None,
    store: StoreOption = None,
    models: ModelsOption = None,
    root_path: Annotated[
        str | None,
        typer.Option(help="Path beneath which a reverse proxy serves it; $DEEPERGATGNN_ROOT_PATH.", metavar="/PATH"),
    ] = None,
) -> None:
    """Serve predictions over HTTP; without DEEPERGATGNN_REDIS_URL with a broker and a worker of its own.

    Example: deepergatgnn serve --port 8000

    Example: deepergatgnn serve --models bulk-modulus,band-gap@1.0.0 --root-path /crystals
    """
    from service.authentication import Keys
    from service.supervisor import run

    settings = _settings(host=host, port=port, model_store=store, models=models, root_path=root_path)
    if not Keys.of(settings):
        print("no API keys: listening on this machine only", flush=True)
    run(settings, workers, lambda address: print(f"ready on {address}", flush=True))


def worker(store: StoreOption = None, models: ModelsOption = None) -> None:
    """Run one worker on the broker of DEEPERGATGNN_REDIS_URL.

    Example: DEEPERGATGNN_REDIS_URL=redis://127.0.0.1:6379/0 deepergatgnn worker
    """
    settings = _settings(model_store=store, models=models)
    if settings.redis_url is None:
        raise ConfigError("a worker needs a broker: set DEEPERGATGNN_REDIS_URL, for example redis://127.0.0.1:6379/0")
    from service.worker import run

    run(settings, settings.redis_url.get_secret_value())


def _settings(**given: Path | str | int | None) -> "Settings":
    from pydantic import ValidationError

    from service.settings import Settings

    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    try:
        settings = Settings(**options)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        raise ConfigError(reasons) from None
    if settings.models:
        SelectedModels(settings.model_store, settings.models).check()
    return settings
