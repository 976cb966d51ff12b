"""How to reach an API server: where it is, whom it trusts, and who we are."""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

from florence.errors import ConfigurationError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(slots=True)
class Access:
    """One way to an API server; credentials are read again when they are refused."""

    configuration: Configuration
    namespace: str = "default"
    reload: Callable[[], Awaitable[Configuration]] | None = None

    async def authorization(self) -> str | None:
        """The header that says who we are; a service account's token is read again each minute."""
        value = await self.configuration.get_api_key_with_prefix("BearerToken")
        return value.strip() if value else None

    async def refresh(self, context: ssl.SSLContext | None) -> bool:
        """Gets new credentials after a refusal; False where there is no way to."""
        if self.reload is None:
            return False
        self.configuration = await self.reload()
        if context is not None and self.configuration.cert_file:
            context.load_cert_chain(self.configuration.cert_file, self.configuration.key_file)
        return True

    def tls(self) -> ssl.SSLContext | None:
        """What connections are checked with; None for plain HTTP."""
        settings = self.configuration
        if not str(settings.host).startswith("https"):
            return None
        context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        # Authorities made by installers lack extensions that the strict mode of newer Pythons
        # demands; kubectl does not ask for them either.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not settings.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
        return context


async def find_access(
    kubeconfig: str | Path | None = None,
    context: str | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    service_account: Path = SERVICE_ACCOUNT,
) -> Access:
    """The pod's service account where there is one and no kubeconfig is named; else a kubeconfig.

    Raises:
        ConfigurationError: neither is there, or it cannot be used.
    """
    named = kubeconfig or environment.get("KUBECONFIG")
    if not named and context is None and (service_account / "token").is_file():
        return _in_cluster(service_account, environment)
    paths = str(named or Path.home() / ".kube" / "config")
    return await _from_kubeconfig(paths, context)


def _in_cluster(folder: Path, environment: Mapping[str, str]) -> Access:
    configuration = Configuration()
    try:
        load_incluster_config(  # type: ignore[no-untyped-call]
            configuration,
            token_filename=str(folder / "token"),
            cert_filename=str(folder / "ca.crt"),
            environ=dict(environment),
        )
    except ConfigException as error:
        raise ConfigurationError(f"{folder}: the service account cannot be used: {error}") from None
    file = folder / "namespace"
    namespace = file.read_text(encoding="utf-8").strip() if file.is_file() else "default"
    return Access(configuration, namespace)


async def _from_kubeconfig(paths: str, context: str | None) -> Access:
    chosen, namespace = _context(paths, context)

    async def load() -> Configuration:
        configuration = Configuration()
        try:
            await load_kube_config(paths, chosen, configuration)
        except (ConfigException, OSError, ValueError, TypeError) as error:
            raise ConfigurationError(f"{paths}: context '{chosen}': {error}") from None
        return configuration

    return Access(await load(), namespace, load)


def _context(paths: str, wanted: str | None) -> tuple[str, str]:
    """The context to use and its namespace; of several files the first that says it, as kubectl."""
    documents = []
    for path in filter(None, paths.split(os.pathsep)):
        file = Path(path).expanduser()
        if not file.is_file():
            continue
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigurationError(f"{file}: cannot be read: {error}") from None
        documents += [document] if isinstance(document, dict) else []
    if not documents:
        raise ConfigurationError(
            f"{paths}: no kubeconfig is there: pass --kubeconfig or KUBECONFIG"
        )
    name = wanted or next((d["current-context"] for d in documents if d.get("current-context")), "")
    for document in documents:
        for entry in document.get("contexts") or ():
            if entry.get("name") == name:
                return name, str((entry.get("context") or {}).get("namespace") or "default")
    problem = f"has no context '{name}'" if name else "has no current-context: pass --context"
    raise ConfigurationError(f"{paths}: {problem}")
