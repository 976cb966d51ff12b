"""``florencectl serve``: a trained model behind HTTP, as ``mlflow models serve`` would have it."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from florence.config.storage import S3Settings
from florence.errors import DataError, MissingExtraError
from florencectl.local_server import HOST, require_free
from florencectl.model_uris import resolved
from florencectl.options import Device, ModelEndpoint
from florencectl.output import note

if TYPE_CHECKING:
    from florence.loading import LoadedModel

_OF_A_RUN = "runs:/"


def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder or s3:// URI of a model or of a stage, or a models:/ URI of MLflow."
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines ask.")
    ] = HOST,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5001,
    device: Device = None,
    endpoint: ModelEndpoint = None,
) -> None:
    """Answer HTTP requests with a trained model until interrupted, as MLflow's servers do.

    POST /invocations takes images as base64, with the parameters that predict takes; the request
    that is printed shows how. GET /ping says whether the server is there.
    """
    if find_spec("mlflow") is None:
        raise MissingExtraError("mlflow", "train")
    s3 = S3Settings(endpoint=endpoint)
    require_free(port, host)
    from florence_jobs.tracking.server import be_discreet

    be_discreet()
    answer_until_interrupted(opened(model, device, s3), host, port)


def opened(uri: str, device: str | None, s3: S3Settings) -> LoadedModel:
    """The model at a URI, also at one of MLflow's.

    Raises:
        DataError: there is none.
        ConfigurationError: there is no store of MLflow's.
    """
    from florence.loading import load

    uri = str(folder_of(uri)) if uri.startswith(_OF_A_RUN) else resolved(uri, s3)
    return load(uri, device=device, s3=s3)


def folder_of(uri: str) -> Path:
    """The folder with the two files of a model among the artifacts of a run.

    It is looked for in ``MLFLOW_TRACKING_URI``, else in the store of the runs on this machine.
    """
    from florence_jobs.registry.store import default_store

    store = default_store()
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        served = mlflow.artifacts.download_artifacts(
            artifact_uri=uri, tracking_uri=store, registry_uri=store
        )
    except (MlflowException, OSError) as error:
        problem = str(error).partition("\n")[0]
        raise DataError(f"{uri}: no such model in {store}: {problem}") from None
    folder = Path(served) / "data" / "files"
    if not folder.is_dir():
        raise DataError(f"{uri}: not a model that a stage left: its files are not in {folder}")
    return folder


def answer_until_interrupted(model: LoadedModel, host: str, port: int) -> None:
    """Serve the model, and say so once requests are answered."""
    import uvicorn
    from mlflow.pyfunc import scoring_server

    from florence_jobs.served_model import example_request, served

    class Server(uvicorn.Server):
        async def startup(self, *arguments: object, **named: object) -> None:
            await super().startup(*arguments, **named)  # type: ignore[arg-type]
            url = f"http://{host}:{port}"
            note(f"serving the {model.card.task} model on {url} (Ctrl-C stops it); ask it, say, by")
            note(f"  {example_request(model.predictor.inputs, url)}")

    app = scoring_server.init(served(model.predictor))
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False)
    with contextlib.suppress(KeyboardInterrupt):
        Server(config).run()
