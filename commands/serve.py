"""`serve` and `worker`."""

from importlib.util import find_spec
from typing import Annotated

import typer

from deepergatgnn.commands.options import StoreOption, open_store
from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import SelectedModels

WORKER_LIBRARIES = ("torch", "torch_geometric", "safetensors")

ModelsOption = Annotated[
    str | None,
    typer.Option(
        help="Models to serve, NAME or NAME@VERSION, separated by commas. Default: $DEEPERGATGNN_MODELS, else all.",
        metavar="A,B@1.0.0",
    ),
]


def serve(
    host: Annotated[str | None, typer.Option(help="Address; other than loopback only with keys.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Worker processes to start. Default: 1 with the embedded broker, 0 with REDIS_URL.", min=0),
    ] = None,
    store: StoreOption = None,
    models: ModelsOption = None,
    root_path: Annotated[
        str | None,
        typer.Option(help="Path prefix of a reverse proxy. Default: $DEEPERGATGNN_ROOT_PATH.", metavar="/PATH"),
    ] = None,
) -> None:
    """Serve predictions over HTTP; without DEEPERGATGNN_REDIS_URL with an embedded broker and a worker.

    Example: deepergatgnn serve --port 8000

    Example: deepergatgnn serve --models bulk-modulus,band-gap@1.0.0 --root-path /crystals
    """
    from deepergatgnn.service.http.api_keys import ApiKeys
    from deepergatgnn.service.operations.serve import run
    from deepergatgnn.service.settings import read_settings

    settings = read_settings(host=host, port=port, model_store=store, models=models, root_path=root_path)
    open_store(settings.model_store)
    SelectedModels(settings.model_store, settings.models).check()
    if workers or (workers is None and settings.redis_url is None):
        _check_worker_libraries()
    if not ApiKeys.of(settings):
        print("no API keys: listening on this machine only", flush=True)
    run(settings, workers, lambda address: print(f"ready on {address}", flush=True))


def worker(store: StoreOption = None, models: ModelsOption = None) -> None:
    """Run one worker of the broker at DEEPERGATGNN_REDIS_URL.

    Example: DEEPERGATGNN_REDIS_URL=redis://127.0.0.1:6379/0 deepergatgnn worker
    """
    from deepergatgnn.service.settings import read_settings
    from deepergatgnn.service.worker.process import run

    settings = read_settings(model_store=store, models=models)
    open_store(settings.model_store)
    SelectedModels(settings.model_store, settings.models).check()
    if settings.redis_url is None:
        raise ConfigError("a worker needs a broker: set DEEPERGATGNN_REDIS_URL, for example redis://127.0.0.1:6379/0")
    run(settings, settings.redis_url.get_secret_value())


def _check_worker_libraries() -> None:
    """Refuse to start workers without their libraries, since each would exit at once."""
    if missing := [name for name in WORKER_LIBRARIES if find_spec(name) is None]:
        raise ConfigError(
            f"a worker needs {', '.join(missing)}: pip install 'deepergatgnn[inference,service]', or serve with "
            "--workers 0 and run workers elsewhere"
        )
