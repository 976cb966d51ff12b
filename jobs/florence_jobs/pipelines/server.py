"""Pipelines on a KFP server: uploaded once per content, started once or on a schedule."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence.errors import ConfigurationError, TransientError


@dataclass(frozen=True, slots=True)
class Submitted:
    """What was started on a server."""

    id: str
    name: str
    url: str
    """Its page."""


class PipelineServer:
    """A KFP server.

    Args:
        endpoint: URL of its API, as KFP's own client takes it.
        token: bearer token; empty for none, or that of the pod's service account.
        cookies: of a browser's session, for servers behind a login page.

    Raises:
        TransientError: it does not answer.
        ConfigurationError: it refuses the credentials.
    """

    def __init__(
        self, endpoint: str, *, token: str = "", cookies: str = "", namespace: str = ""
    ) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise ConfigurationError(f"--endpoint {endpoint}: give http(s)://HOST[:PORT][/PATH]")
        self._endpoint, self._namespace = endpoint.rstrip("/"), namespace or None
        with self._explained():
            from kfp import Client

            self._answers(token, cookies)
            self._client: Any = Client(
                host=self._endpoint,
                existing_token=token or None,
                cookies=cookies or None,
            )

    def _answers(self, token: str, cookies: str) -> None:
        """Ask once whether the server is there: KFP's client would ask for half a minute, and not
        say that it was refused."""
        from kfp_server_api import ApiClient, Configuration, HealthzServiceApi

        settings = Configuration(host=self._endpoint)
        settings.retries = False
        client = ApiClient(settings, cookie=cookies or None)
        if token:
            client.set_default_header("Authorization", f"Bearer {token}")
        HealthzServiceApi(client).healthz_service_get_healthz()

    def submit(
        self,
        name: str,
        text: str,
        arguments: Mapping[str, Any],
        *,
        experiment: str = "florence",
        run_name: str = "",
        cron: str = "",
        service_account: str = "",
    ) -> Submitted:
        """Upload a compiled pipeline where the server lacks it, and start it.

        Args:
            name: of the pipeline.
            text: its YAML.
            cron: five fields, or six with seconds; empty starts it once, now.
            service_account: of the steps' pods; empty for the server's default.

        Raises:
            As the constructor.
        """
        with self._explained():
            pipeline, version = self._uploaded(name, text)
            found = self._client.create_experiment(experiment, namespace=self._namespace)
            common = {
                "experiment_id": found.experiment_id,
                "job_name": run_name or name,
                "params": dict(arguments),
                "pipeline_id": pipeline,
                "version_id": version,
                "service_account": service_account or None,
            }
            if cron:
                made = self._client.create_recurring_run(
                    cron_expression=with_seconds(cron), no_catchup=True, max_concurrency=1, **common
                )
                identity, page = made.recurring_run_id, "recurringrun/details"
            else:
                made = self._client.run_pipeline(**common)
                identity, page = made.run_id, "runs/details"
        return Submitted(identity, common["job_name"], f"{self._endpoint}/#/{page}/{identity}")

    def _uploaded(self, name: str, text: str) -> tuple[str, str]:
        """The ids of a pipeline and of its version with this content."""
        version = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.yaml"
            path.write_text(text, encoding="utf-8")
            pipeline = self._client.get_pipeline_id(name)
            if pipeline is None:
                made = self._client.upload_pipeline(
                    str(path), pipeline_name=name, namespace=self._namespace
                )
                pipeline = made.pipeline_id
            known = self._client.list_pipeline_versions(pipeline, page_size=100)
            for each in known.pipeline_versions or ():
                if each.display_name == version:
                    return pipeline, each.pipeline_version_id
            added = self._client.upload_pipeline_version(
                str(path), pipeline_version_name=version, pipeline_id=pipeline
            )
            return pipeline, added.pipeline_version_id

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of KFP's client in words; what it prints goes to stderr."""
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError

        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except ApiException as error:
            if error.status in (401, 403):
                raise ConfigurationError(
                    f"{self._endpoint} refuses these credentials (HTTP {error.status}): give "
                    "--token or --cookies of somebody who may run pipelines there"
                ) from None
            said = str(error.reason or error.body).partition("\n")[0]
            if error.status is not None and error.status < 500:
                raise ConfigurationError(f"{self._endpoint}: HTTP {error.status} {said}") from None
            raise TransientError(f"{self._endpoint}: HTTP {error.status} {said}") from None
        except (HTTPError, TimeoutError) as error:
            said = str(error).partition("\n")[0]
            raise TransientError(f"{self._endpoint} does not answer: {said}") from None


def with_seconds(cron: str) -> str:
    """A cron expression with a field of seconds before it, as KFP takes it.

    Raises:
        ConfigurationError: it has neither five nor six fields.
    """
    fields = cron.split()
    if len(fields) not in (5, 6):
        raise ConfigurationError(f"--cron '{cron}': give five fields, such as '0 2 * * *'")
    return " ".join(fields if len(fields) == 6 else ["0", *fields])
