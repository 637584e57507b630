"""`keys`: API keys of the service."""

import json
from typing import Annotated

import typer

from deepergatgnn.commands.options import JsonOption
from deepergatgnn.errors import ConfigError

app = typer.Typer(
    help="API keys of the service.\n\nExample: deepergatgnn keys new alice --rate 50", no_args_is_help=True
)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the client: letters, digits, '.', '_', '-'.")],
    rate: Annotated[float | None, typer.Option(help="Crystals a second. Default: no limit.")] = None,
    burst: Annotated[float | None, typer.Option(help="Crystals at once. Default: ten seconds of the rate.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a key: print it once, with its line for the file of DEEPERGATGNN_API_KEYS_FILE.

    Example: deepergatgnn keys new alice --rate 50
    """
    from deepergatgnn.service.http.api_keys import NAME, digest_of, new_key, parse_key

    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not a valid name: use letters, digits, '.', '_', '-', at most 64")
    if burst is not None and rate is None:
        raise ConfigError("burst without rate: give --rate too")
    key = new_key()
    words = [name, f"sha256:{digest_of(key).hex()}"]
    words += [f"{word}={value:.15g}" for word, value in (("rate", rate), ("burst", burst)) if value is not None]
    line = " ".join(words)
    parse_key(line, 1)  # refuses an invalid rate
    if as_json:
        print(json.dumps({"name": name, "key": key, "line": line}))
        return
    print(f"key, not shown again: {key}")
    print(f"line for the keys file: {line}")
