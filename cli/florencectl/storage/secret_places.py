"""Where the Secrets of namespaces are kept: in a cluster, or in a file for who applies them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence.errors import ConfigurationError
from florencectl.cluster.connection import MANAGER, Place, on_cluster

if TYPE_CHECKING:
    from florence_operator.kube.client import Client

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ClusterSecrets:
    """Secrets of a cluster, through its API server."""

    place: Place

    def get(self, namespace: str, name: str) -> Document | None:
        """A Secret; None when there is none."""
        from florence_operator.kube.client import SECRETS, ApiError

        async def read(client: Client, where: str) -> Document | None:
            try:
                return await client.get(SECRETS, name, where)
            except ApiError as error:
                if not error.not_found:
                    raise
                return None

        return on_cluster(replace(self.place, namespace=namespace), read)

    def put(self, document: Document) -> None:
        """Make a Secret be as the document says."""

        async def applied(client: Client, _: str) -> None:
            await client.apply(document, manager=MANAGER)

        on_cluster(replace(self.place, namespace=document["metadata"]["namespace"]), applied)


@dataclass(frozen=True, slots=True)
class FileSecrets:
    """Secrets in a YAML file that only its owner may read, as ``kubectl apply -f`` takes it."""

    path: Path

    def get(self, namespace: str, name: str) -> Document | None:
        """A Secret; None when there is none.

        Raises:
            ConfigurationError: the file holds something else.
        """
        return next((each for each in self._documents() if _names(each) == (namespace, name)), None)

    def put(self, document: Document) -> None:
        """Write a Secret in place of the one of its name; the others stay."""
        import yaml

        metadata = document["metadata"]
        name = metadata["namespace"], metadata["name"]
        kept = [each for each in self._documents() if _names(each) != name]
        text = yaml.safe_dump_all([*kept, document], sort_keys=False)
        # A temporary file is its owner's alone from its first byte on (mode 0600).
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).replace(self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _documents(self) -> list[Document]:
        import yaml

        if not self.path.exists():
            return []
        try:
            found = list(yaml.safe_load_all(self.path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError):
            found = [None]
        if not all(isinstance(each, dict) and each.get("kind") == "Secret" for each in found):
            raise ConfigurationError(
                f"{self.path} holds something else than Secrets: name another file (--secret-out)"
            )
        return found


def _names(document: Document) -> tuple[str | None, str | None]:
    metadata = document.get("metadata") or {}
    return metadata.get("namespace"), metadata.get("name")
