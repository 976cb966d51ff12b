"""MLflow's registry as commands use it: versions, aliases, and the files behind them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from florence.errors import ConfigurationError, DataError, TransientError
from florence.home import florence_home
from florence_jobs.registry.references import Reference
from florence_jobs.registry.tags import MODEL_ID, place_of
from florence_jobs.tracking.server import check_uri, redacted, silence_mlflow

_NOT_THERE = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a registered model, or a logged model that has no name.

    Attributes:
        tags: those of the version; ``card.*`` is its card, ``florence.*`` where it is from.
        metrics: the newest value of everything that was measured of it, by MLflow's names.
        created: Unix milliseconds.
    """

    name: str
    version: str
    aliases: tuple[str, ...] = ()
    model_id: str | None = None
    run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    created: int = 0

    @property
    def uri(self) -> str:
        """The reference that names this version for good."""
        return str(Reference(self.name, self.version) if self.name else self.reference_by_id)

    @property
    def reference_by_id(self) -> Reference:
        """The logged model that it is a version of."""
        return Reference(model_id=self.model_id)


def default_store(environment: Mapping[str, str] = os.environ) -> str:
    """``MLFLOW_TRACKING_URI``, else the store of the runs on this machine.

    Raises:
        ConfigurationError: neither is there.
    """
    if given := environment.get("MLFLOW_TRACKING_URI"):
        return given
    database = florence_home(environment) / "mlflow.db"
    if not database.is_file():
        raise ConfigurationError(
            f"there is no {database}: set FLORENCE_HOME or MLFLOW_TRACKING_URI, or give --mlflow"
        )
    return f"sqlite:///{database}"


class ModelRegistry:
    """The registered models of one MLflow store. Imports MLflow (seconds) when it is made."""

    def __init__(self, store: str) -> None:
        check_uri(store)
        silence_mlflow()
        from mlflow import MlflowClient

        self.store = store
        self.client: Any = MlflowClient(tracking_uri=store, registry_uri=store)

    def names(self) -> list[str]:
        """Every registered model that a stage of ours left, by name."""
        found = self._all("search_registered_models", None)
        return sorted(str(model.name) for model in found)

    def versions(self, name: str) -> list[Version]:
        """The versions of a model, the newest first; without their metrics.

        Raises:
            DataError: there is no such model.
        """
        quoted = name.replace("'", "")
        found = self._all("search_model_versions", f"name = '{quoted}'")
        if not found:
            known = ", ".join(self.names()) or "none"
            raise DataError(f"{self._where}: no registered model '{name}'; there: {known}")
        return sorted(map(self._version, found), key=lambda v: int(v.version), reverse=True)

    def find(self, reference: Reference) -> Version:
        """The version that a reference means now, with its metrics.

        Raises:
            DataError: there is none; says what there is.
        """
        if reference.model_id is not None:
            return self._logged(reference)
        aliases = self.aliases(reference.name)
        version = reference.version
        if reference.alias is not None:
            version = aliases.get(reference.alias)
            if version is None:
                there = ", ".join(aliases) or "none"
                raise DataError(
                    f"{self._where}: '{reference.name}' has no alias '{reference.alias}'; there: "
                    f"{there}"
                )
        elif version is None:
            version = self.versions(reference.name)[0].version
        found = self._call("get_model_version", reference.name, version)
        if found is None:
            raise DataError(f"{self._where}: '{reference.name}' has no version {version}")
        return self.measured(self._version(found, aliases))

    def aliases(self, name: str) -> dict[str, str]:
        """The versions of a model by alias.

        Raises:
            DataError: there is no such model.
        """
        found = self._call("get_registered_model", name)
        if found is None:
            self.versions(name)  # says which there are
            return {}
        return {alias: str(version) for alias, version in dict(found.aliases).items()}

    def with_uri(self, uri: str) -> Version | None:
        """The newest version whose files a stage left at a URI, if one is registered."""
        quoted = place_of(uri).replace("'", "")
        found = self._all("search_model_versions", f"tags.`florence.uri` = '{quoted}'")
        newest = max(found, key=lambda each: int(each.creation_timestamp), default=None)
        return None if newest is None else self._version(newest)

    def measured(self, version: Version) -> Version:
        """The version with its metrics."""
        from dataclasses import replace

        if version.model_id is None:
            return version
        model = self._call("get_logged_model", version.model_id)
        newest: dict[str, Any] = {}
        for metric in (model.metrics or []) if model is not None else []:
            known = newest.get(metric.key)
            if known is None or (metric.timestamp, metric.step) >= (known.timestamp, known.step):
                newest[metric.key] = metric
        return replace(version, metrics={k: newest[k].value for k in sorted(newest)})

    def set_alias(self, version: Version, alias: str) -> None:
        """Let an alias stand for a version, and for no other."""
        self._call("set_registered_model_alias", version.name, alias, version.version)

    def delete_alias(self, name: str, alias: str) -> None:
        """Let an alias stand for nothing."""
        self._call("delete_registered_model_alias", name, alias)

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self._call("set_model_version_tag", version.name, version.version, key, value)

    def fetch(self, version: Version) -> Path:
        """The folder with MLflow's own copy of a model's two files, fetched once.

        Raises:
            DataError: MLflow has no copy.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        kept = florence_home() / "models" / str(version.model_id)
        files = Path("data") / "files"
        if (kept / files / "config.json").is_file():
            return kept / files
        try:
            # Not models:/…: MLflow looks for that in its global store.
            at = self._artifacts_of(version)
            folder = Path(
                mlflow.artifacts.download_artifacts(artifact_uri=at, tracking_uri=self.store)
            )
        except (MlflowException, OSError) as error:
            problem = str(error).partition("\n")[0]
            raise DataError(f"{version.uri}: no such model in {self._where}: {problem}") from None
        if not (folder / files).is_dir():
            raise DataError(
                f"{version.uri}: not a model that a stage left: its files are not in "
                f"{folder / files}"
            )
        return _keep(folder, kept) / files

    def _artifacts_of(self, version: Version) -> str:
        """Where MLflow's own copy of a model is."""
        if version.model_id is None:
            return str(self.client.get_model_version_download_uri(version.name, version.version))
        return str(self.client.get_logged_model(version.model_id).artifact_location)

    @property
    def _where(self) -> str:
        return redacted(self.store)

    def _version(self, found: Any, aliases: Mapping[str, str] | None = None) -> Version:
        known = aliases if aliases is not None else {}
        mine = {alias for alias, version in known.items() if version == str(found.version)}
        return Version(
            name=str(found.name),
            version=str(found.version),
            aliases=tuple(sorted({*mine, *map(str, found.aliases or ())})),
            model_id=found.tags.get(MODEL_ID) or found.model_id or None,
            run_id=found.run_id or None,
            tags=dict(found.tags),
            created=int(found.creation_timestamp),
        )

    def _logged(self, reference: Reference) -> Version:
        model = self._call("get_logged_model", reference.model_id)
        if model is None:
            raise DataError(f"{reference}: no such model in {self._where}")
        return self.measured(
            Version(
                name="",
                version="",
                model_id=reference.model_id,
                run_id=model.source_run_id,
                tags=dict(model.tags),
                created=int(model.creation_timestamp),
            )
        )

    def _all(self, method: str, condition: str | None) -> list[Any]:
        found: list[Any] = []
        token: str | None = None
        while True:
            page = self._call(method, condition, page_token=token)
            found += page or []
            token = getattr(page, "token", None)
            if not token:
                return found

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """What MLflow answers; ``None`` for what it does not have."""
        from mlflow.exceptions import MlflowException

        try:
            return getattr(self.client, method)(*arguments, **named)
        except MlflowException as error:
            problem = redacted(str(error).partition("\n")[0])
            if error.error_code == _NOT_THERE and method.startswith(("get_", "search_")):
                return None
            if error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
                raise TransientError(f"MLflow at {self._where}: {problem}; try again") from None
            raise ConfigurationError(f"MLflow at {self._where}: {problem}") from None


def _keep(folder: Path, kept: Path) -> Path:
    """Move what was downloaded to where it is found again; what lies in the store stays there."""
    import shutil
    import tempfile

    if not folder.is_relative_to(tempfile.gettempdir()):
        return folder
    kept.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.move(str(folder), str(kept))
    except OSError:  # another process was faster, or the home folder is full
        return kept if kept.is_dir() else folder
    return kept
