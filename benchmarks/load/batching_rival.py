"""LitServe, set up as its documents say; graphs are built of a batch `together`, or of `each` request as it is decoded.

python -m benchmarks.load.batching_rival PORT STORE MODEL DEVICE BATCH TIMEOUT WORKERS together|each
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.load.answers import Asked, Said

    Answered = list[tuple[Asked, Said]]

litserve = import_module("litserve")  # not a dependency of this project: see --litserve


class CrystalAPI(litserve.LitAPI):  # type: ignore[misc, name-defined]
    """Decodes each request, predicts them as a batch."""

    def setup(self, device: str) -> None:
        """Load the model, in each of its workers."""
        from benchmarks.load.answers import Model  # noqa: PLC0415 - torch in its workers only

        del device
        self.model = Model(*sys.argv[2:5])

    def decode_request(self, request: dict[str, Any]) -> "Asked":
        """Text → structure, or graph."""
        return self.model.read(request, graph=sys.argv[8] == "each")

    def batch(self, inputs: "list[Asked]") -> "list[Asked]":
        """The predictor takes a list."""
        return inputs

    def predict(self, inputs: "list[Asked] | Asked") -> "Answered":
        """Structures → graphs → predictions."""
        asked = inputs if isinstance(inputs, list) else [inputs]
        return list(zip(asked, self.model.predict(asked), strict=True))

    def unbatch(self, output: "Answered") -> "Answered":
        """And gives a list."""
        return output

    def encode_response(self, output: "tuple[Asked, Said] | Answered") -> dict[str, Any]:
        """One answer."""
        asked, said = output[0] if isinstance(output, list) else output
        return self.model.answer(asked, said)


def main() -> None:
    """Until killed."""
    port, batch, timeout, workers = int(sys.argv[1]), int(sys.argv[5]), float(sys.argv[6]), int(sys.argv[7])
    api = CrystalAPI(max_batch_size=batch, batch_timeout=timeout)
    accelerator = "cuda" if sys.argv[4].startswith("cuda") else "cpu"
    server = litserve.LitServer(api, accelerator=accelerator, devices=1, workers_per_device=workers)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, num_api_servers=1)


if __name__ == "__main__":
    main()
