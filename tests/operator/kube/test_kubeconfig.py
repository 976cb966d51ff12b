from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from florence.errors import ConfigurationError
from florence_operator.kube.kubeconfig import find_access


def kubeconfig(path: Path, name: str, user: dict[str, Any] | None, **extra: Any) -> str:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": f"http://{name}:80"}}],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": name, "namespace": f"{name}-ns"}}
        ],
        "users": [{"name": name, "user": user or {}}],
        **extra,
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


def find(*arguments: Any, **options: Any) -> Any:
    return asyncio.run(find_access(*arguments, **options))


def test_of_several_files_the_first_context_holds(tmp_path: Path) -> None:
    first = kubeconfig(tmp_path / "a", "one", {"token": "t1"}, **{"current-context": "one"})
    second = kubeconfig(tmp_path / "b", "two", {"token": "t2"}, **{"current-context": "two"})
    environment = {"KUBECONFIG": os.pathsep.join([first, str(tmp_path / "none"), second])}
    access = find(environment=environment)
    assert (access.configuration.host, access.namespace) == ("http://one:80", "one-ns")
    assert asyncio.run(access.authorization()) == "Bearer t1"
    access = find(context="two", environment=environment)
    assert (access.configuration.host, access.namespace) == ("http://two:80", "two-ns")


def test_a_plugin_is_asked_again_for_credentials(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        "#!/bin/sh\n"
        f"n=$(cat {tmp_path}/n 2>/dev/null || echo 0); n=$((n+1)); echo $n > {tmp_path}/n\n"
        'echo "{\\"apiVersion\\":\\"client.authentication.k8s.io/v1\\",'
        '\\"kind\\":\\"ExecCredential\\",\\"status\\":{\\"token\\":\\"t$n\\"}}"\n'
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(plugin),
            "interactiveMode": "Never",
        }
    }
    path = kubeconfig(tmp_path / "a", "one", user, **{"current-context": "one"})

    async def main() -> None:
        access = await find_access(path)
        assert await access.authorization() == "Bearer t1"
        assert await access.refresh(None)
        assert await access.authorization() == "Bearer t2"

    asyncio.run(main())


def test_a_pod_uses_its_service_account(tmp_path: Path) -> None:
    for name, text in (("token", "secret\n"), ("ca.crt", "PEM"), ("namespace", "florence\n")):
        (tmp_path / name).write_text(text)
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}

    async def main() -> None:
        access = await find_access(environment=environment, service_account=tmp_path)
        assert access.configuration.host == "https://[fd00::1]:443"
        assert access.namespace == "florence"
        assert await access.authorization() == "Bearer secret"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no kubeconfig is there"),
        ("{}", "has no current-context"),
        ("current-context: x", "has no context 'x'"),
        ("a: [", "cannot be read"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, text: str | None, problem: str) -> None:
    file = tmp_path / "config"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        find(str(file))
