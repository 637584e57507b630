"""`serve` and `worker`."""

from importlib.util import find_spec
from typing import Annotated

import typer

from commands.options import StoreOption, open_store
from deepergatgnn.errors import ConfigError

OF_WORKERS = ("torch", "torch_geometric", "safetensors")


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
    from service.settings import read_settings
    from service.supervisor import run

    settings = read_settings(host=host, port=port, model_store=store)
    open_store(settings.model_store)
    if workers or (workers is None and settings.redis_url is None):
        _check_worker_libraries()
    if not Keys.of(settings):
        print("no API keys: listening on this machine only", flush=True)
    run(settings, workers, lambda address: print(f"ready on {address}", flush=True))


def worker(store: StoreOption = None) -> None:
    """Run one worker on the broker of DEEPERGATGNN_REDIS_URL.

    Example: DEEPERGATGNN_REDIS_URL=redis://127.0.0.1:6379/0 deepergatgnn worker
    """
    from service.settings import read_settings

    settings = read_settings(model_store=store)
    open_store(settings.model_store)
    if settings.redis_url is None:
        raise ConfigError("a worker needs a broker: set DEEPERGATGNN_REDIS_URL, for example redis://127.0.0.1:6379/0")
    from service.worker import run

    run(settings, settings.redis_url.get_secret_value())


def _check_worker_libraries() -> None:
    """A worker process without them would end again and again."""
    if missing := [name for name in OF_WORKERS if find_spec(name) is None]:
        raise ConfigError(
            f"a worker needs {', '.join(missing)}: pip install 'deepergatgnn[inference,service]', or serve with "
            "--workers 0 and run workers elsewhere"
        )
