"""The files in deploy/ray fit together, what they build on, and the versions that are locked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "deploy/ray"


def documents(name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all((FOLDER / name).read_text()) if document]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


@pytest.fixture
def cluster() -> dict[str, Any]:
    """Return the specification of the RayCluster."""
    (document,) = documents("raycluster.yaml")
    return dict(document["spec"])


@pytest.fixture
def server() -> dict[str, Any]:
    """Return the patch of the server's pod."""
    (document,) = documents("server.yaml")
    return dict(document["spec"]["template"]["spec"])


def groups(cluster: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each group of Ray's pods with its pod."""
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group, group["template"]["spec"]


def test_one_image_of_the_locked_ray_is_used_everywhere(cluster: dict[str, Any], server: dict[str, Any]) -> None:
    """Ray and Python must be the same on all hosts."""
    locked = re.search(r"^ray==(\S+)", (ROOT / "requirements/ray.txt").read_text(), re.M)
    assert locked
    assert str(cluster["rayVersion"]) == locked[1]
    (tag,) = (image["newTag"] for image in documents("kustomization.yaml")[0]["images"])
    images = {container["image"] for _, pod in groups(cluster) for container in containers(pod)}
    images |= {container["image"] for container in containers(server) if "image" in container}
    assert images == {f"impasto:{tag}"}
    assert "--build-arg RAY=" in (FOLDER / "kustomization.yaml").read_text()
    assert "requirements/ray.txt" in (ROOT / "Dockerfile").read_text()


def test_only_token_holders_reach_ray(cluster: dict[str, Any], server: dict[str, Any]) -> None:
    """The operator gives the cluster's pods its token, the server's pod takes the same; nothing is installed at run time."""
    assert cluster["authOptions"] == {"mode": "token"}
    (document,) = documents("raycluster.yaml")
    for container in containers(server):
        values = {item["name"]: item for item in container["env"]}
        assert values["RAY_AUTH_MODE"]["value"] == "token"
        secret = values["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert secret == {"name": document["metadata"]["name"], "key": "auth_token"}
    text = "".join(path.read_text() for path in FOLDER.glob("*.yaml"))
    assert "runtime_env" not in text
    assert "ray://" not in text


def test_ports_and_names_agree(cluster: dict[str, Any], server: dict[str, Any]) -> None:
    """The server finds the control store, the workers find the server, and the policies find both."""
    (document,) = documents("raycluster.yaml")
    head = containers(cluster["headGroupSpec"]["template"]["spec"])[0]
    address = f"{document['metadata']['name']}-head-svc:{head['ports'][0]['containerPort']}"
    ray, impasto = containers(server)
    values = {item["name"]: item.get("value") for item in impasto["env"]}
    assert values["IMPASTO_CLUSTER"] == address
    assert f"--address={address}" in ray["command"]
    (port,) = impasto["ports"]
    assert values["IMPASTO_WORKER_LISTEN"].endswith(f":{port['containerPort']}")
    assert values["IMPASTO_WORKER_ADDRESS"] == f"$(POD_IP):{port['containerPort']}"
    assert list(values).index("POD_IP") < list(values).index("IMPASTO_WORKER_ADDRESS")  # a variable is known to later ones
    assert documents("service.yaml")[0]["spec"]["ports"][0]["port"] == port["containerPort"]
    assert impasto["env"][0] == {"name": "IMPASTO_DEVICE", "value": "none"}
    (group,) = cluster["workerGroupSpecs"]
    (token,) = (item for item in containers(group["template"]["spec"])[0]["volumeMounts"] if item["name"] == "token")
    assert values["IMPASTO_WORKER_TOKEN_FILE"] == f"{token['mountPath']}/token"
    assert values["IMPASTO_WORKERS"] == f"{group['minReplicas']}..{group['maxReplicas']}"
    labels = {"app": "impasto-ray"}
    for _, pod in groups(cluster):
        assert all(container["livenessProbe"]["tcpSocket"] for container in containers(pod))
    assert all(spec["template"]["metadata"]["labels"] == labels for spec, _ in groups(cluster))
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in documents("networkpolicy.yaml")}
    assert policies["impasto-ray"]["podSelector"]["matchLabels"] == labels
    callers = [peer["podSelector"]["matchLabels"]["app"] for peer in policies["impasto-ray"]["ingress"][0]["from"]]
    assert callers == ["impasto-ray", "impasto"]
    assert all(rule.get("from") for policy in policies.values() for rule in policy.get("ingress", ()))


def test_hosts_are_bounded_and_end_in_time(cluster: dict[str, Any], server: dict[str, Any]) -> None:
    """The object store is small, memory has limits, and what KubeRay leaves out is set: grace times and disruption budgets."""
    for group, pod in groups(cluster):
        assert int(group["rayStartParams"]["object-store-memory"]) <= 200_000_000
        assert pod["terminationGracePeriodSeconds"] >= 30
        assert pod["securityContext"]["runAsNonRoot"]
        for container in containers(pod):
            assert container["resources"]["limits"]["memory"]
            assert container["securityContext"]["readOnlyRootFilesystem"]
            mounts = {item["name"] for item in container["volumeMounts"]}
            assert mounts == {item["name"] for item in pod["volumes"]}
    assert "--object-store-memory=100000000" in containers(server)[0]["args"]
    budgets = {item["spec"]["selector"]["matchLabels"]["ray.io/node-type"] for item in documents("poddisruptionbudget.yaml")}
    assert budgets == {"head", "worker"}


def test_the_settings_exist(server: dict[str, Any]) -> None:
    """A variable with a wrong name would be ignored."""
    from impasto_server.config import ServerConfig

    names = {item["name"] for item in containers(server)[1]["env"] if item["name"].startswith("IMPASTO_")}
    settings = {name.removeprefix("IMPASTO_").lower() for name in names}
    assert settings <= set(ServerConfig.__dataclass_fields__)


def test_the_files_are_what_kubernetes_takes(cluster: dict[str, Any]) -> None:
    """By its schemas; of the RayCluster, which is not Kubernetes' own, the pods."""
    from kubernetes_validate import validate

    pods = [
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": group["template"]}
        for group, _ in groups(cluster)
    ]
    for document in (
        *documents("networkpolicy.yaml"),
        *documents("poddisruptionbudget.yaml"),
        *documents("service.yaml"),
        *pods,
    ):
        validate(document, "1.32", strict=True)
