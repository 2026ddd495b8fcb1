"""The cluster files: accepted by those who read them, refused when broken, and as careful as they say."""

import copy
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

import ail_ray
from ail_ray.commands.flags import flags_for, flags_of, job_of
from ail_ray.commands.parsing import parse
from ail_ray.learning.presets import paper
from ail_ray.sweeps.sweep_job import SweepJob

FOLDER = Path(__file__).parents[2] / "cluster"
RAY_UP = ("aws.yaml", "gcp.yaml", "onprem.yaml")
KUBERNETES = ("kuberay-rayjob.yaml", "kuberay-volume.yaml", "mlflow.yaml")
KUBERNETES_VERSION = "1.33"
RAYJOB = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text())


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def check_ray_up(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does before it touches a cloud."""
    whole = prepare_config(copy.deepcopy(config))
    validate_config(whole)
    return whole


def check_kubernetes(document: dict[str, Any]) -> None:
    """Against Kubernetes' own schemas, unknown fields refused; a RayJob against ours, its pods against Kubernetes'."""
    if document["kind"] != "RayJob":
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
        return
    jsonschema.validate(document, RAYJOB)
    for template in pod_templates(document):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES_VERSION, strict=True)


def pod_templates(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if document["kind"] == "RayJob":
        cluster = document["spec"]["rayClusterSpec"]
        yield from (group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]))
    elif document["kind"] in ("Deployment", "StatefulSet"):
        yield document["spec"]["template"]
    elif document["kind"] == "Pod":
        yield document


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_accepts(name: str) -> None:
    (config,) = documents(name)
    assert check_ray_up(config)["cluster_name"] == "ail"


def unknown_key(config: dict[str, Any]) -> None:
    config["min_worker"] = 0


def unknown_docker_key(config: dict[str, Any]) -> None:
    config["docker"]["imag"] = "x"


def text_for_a_number(config: dict[str, Any]) -> None:
    config["idle_timeout_minutes"] = "five"


def no_provider(config: dict[str, Any]) -> None:
    del config["provider"]


@pytest.mark.parametrize("name", RAY_UP)
@pytest.mark.parametrize("mutate", [unknown_key, unknown_docker_key, text_for_a_number, no_provider])
def test_ray_up_refuses_a_broken_copy(name: str, mutate: Callable[[dict[str, Any]], None]) -> None:
    (config,) = documents(name)
    mutate(config)
    with pytest.raises((jsonschema.ValidationError, KeyError, ValueError)):
        check_ray_up(config)


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_accepts(name: str) -> None:
    for document in documents(name):
        check_kubernetes(document)


@pytest.mark.long
@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_refuses_a_broken_copy(name: str) -> None:
    """In turn every key of every document is misspelt, but for those that may have any name."""
    free = ("labels", "matchLabels", "data", "nodeSelector", "requests", "limits", "rayStartParams", "selector")
    broken = 0
    for document in documents(name):
        for path in keys(document):
            if any(part in free for part in path[:-1]) or path[:1] == ("metadata",) or path[-1] in ("kind", "selector"):
                continue
            copied = copy.deepcopy(document)
            owner = copied
            for part in path[:-1]:
                owner = owner[part]
            owner[str(path[-1]) + "x"] = owner.pop(path[-1])
            assert refused(copied), f"{document['kind']}: {path} may be misspelt"
            broken += 1
    assert broken > 30


def refused(document: dict[str, Any]) -> bool:
    try:
        check_kubernetes(document)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError, KeyError):
        return True
    return False


def keys(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for part, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if isinstance(node, dict):
            yield (*path, part)
        yield from keys(child, (*path, part))


@pytest.mark.parametrize("name", RAY_UP)
def test_a_ray_up_cluster_is_closed_and_shares_its_token(name: str) -> None:
    (config,) = documents(name)
    (start,) = [command for command in config["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert "RAY_AUTH_MODE=token" in (FOLDER / "Dockerfile").read_text()
    assert config["setup_commands"] == []  # nothing is fetched when a node starts


@pytest.mark.parametrize("name", RAY_UP)
def test_a_container_of_ray_up_sees_its_gpu(name: str) -> None:
    """Ray adds `--runtime=nvidia`, which gives no GPU unless the container asks; the image must not ask on its own."""
    (config,) = documents(name)
    given = shlex.split(" ".join(config["docker"]["run_options"]))
    assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"} <= set(given)
    assert "NVIDIA" not in (FOLDER / "Dockerfile").read_text()


def test_the_head_may_pass_its_nodes_their_profile() -> None:
    types = documents("aws.yaml")[0]["available_node_types"]
    profiles = {kind: types[kind]["node_config"]["IamInstanceProfile"]["Arn"] for kind in types}
    assert len(set(profiles.values())) == 2
    assert profiles["head"] not in (profiles["gpu-spot"], profiles["gpu-on-demand"])


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_a_cloud_cluster_grows_from_nothing_on_spot_machines_first(name: str) -> None:
    (config,) = documents(name)
    types = config["available_node_types"]
    assert list(types) == ["head", "gpu-spot", "gpu-on-demand"]
    assert types["head"]["resources"] == {"CPU": 0}
    for kind in ("gpu-spot", "gpu-on-demand"):
        assert types[kind]["resources"]["GPU"] == 1
        assert types[kind]["min_workers"] == 0
        assert types[kind]["max_workers"] <= config["max_workers"]
    spot, other = (json.dumps(types[kind]["node_config"]) for kind in ("gpu-spot", "gpu-on-demand"))
    assert "spot" in spot or "preemptible" in spot
    assert "spot" not in other
    assert "preemptible" not in other
    assert config["idle_timeout_minutes"] <= 10
    assert types["gpu-spot"]["priority"] > types["gpu-on-demand"]["priority"], "by rule and not by luck"


@pytest.mark.parametrize("name", KUBERNETES)
def test_pods_are_confined_and_limited(name: str) -> None:
    templates = [template for document in documents(name) for template in pod_templates(document)]
    assert templates
    for template in templates:
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()


def test_the_kubernetes_sweep_grows_from_nothing_and_cleans_up() -> None:
    job = documents("kuberay-rayjob.yaml")[0]["spec"]
    cluster = job["rayClusterSpec"]
    assert job["shutdownAfterJobFinishes"] is True
    assert job["backoffLimit"] > 0
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert [group["replicas"] for group in cluster["workerGroupSpecs"]] == [0, 0]
    assert sum(group["maxReplicas"] for group in cluster["workerGroupSpecs"]) >= 8


def test_the_kubernetes_sweep_is_a_command_that_the_job_accepts() -> None:
    words = shlex.split(documents("kuberay-rayjob.yaml")[0]["spec"]["entrypoint"])
    assert words[:3] == ["python", "jobs/ail_sweep.py", "paper"]
    kind = flags_for(words[3:])
    default = flags_of(kind, SweepJob(sweep=paper()))
    job = job_of(parse(kind, words[3:], default=default, prog="", description=""))
    assert job.placement.gpu
    assert job.max_workers == 8


def test_the_kubernetes_head_holds_the_trials_that_may_run_at_once() -> None:
    """As measured by `head_memory.py`: GiB without a trial, and for each at once; a fifth is kept free."""
    job = documents("kuberay-rayjob.yaml")[0]["spec"]
    (head,) = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    words = shlex.split(job["entrypoint"])
    trials = int(words[words.index("--max-workers") + 1]) // int(words[words.index("--workers") + 1])
    limit = int(head["resources"]["limits"]["memory"].removesuffix("Gi"))
    assert head["resources"]["requests"]["memory"] == f"{limit}Gi"
    assert 1.2 * (1.5 + 1.0 * trials) <= limit


def test_the_image_has_every_file_that_the_package_is_built_from() -> None:
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", "constraints.txt", "ail_ray", "jobs", *project["license-files"]}
    needed |= {project["readme"]} if "readme" in project else set()
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied == needed


def test_only_what_trains_has_an_image_with_cuda() -> None:
    """Both images are built from one file, by the commands at its top, and so have one version of everything."""
    dockerfile, tag = (FOLDER / "Dockerfile").read_text(), f"ail-ray:{ail_ray.__version__}"
    assert re.findall(r"-t (\S+)(?: --build-arg (\w+)=)?", dockerfile) == [(tag, ""), (f"{tag}-cpu", "TORCH_INDEX")]
    assert "://" not in dockerfile, "whoever builds chooses where packages come from"
    images = dict[str, set[str]]()
    for name in KUBERNETES:
        for template in (template for document in documents(name) for template in pod_templates(document)):
            for container in template["spec"]["containers"]:
                images.setdefault(container["image"].rpartition("/")[2], set()).add(container["name"])
                gpu = "nvidia.com/gpu" in container["resources"]["limits"]
                assert gpu == container["image"].endswith(tag)
    assert images.pop(f"{tag}-cpu") == {"ray-head", "files", "mlflow"}
    assert images.pop(tag) == {"ray-worker"}
    assert images.keys() == {"postgres:17.6"}


def test_torch_without_cuda_is_of_the_version_that_all_have() -> None:
    """`pip` leaves the build alone that the Dockerfile has installed first."""
    constraints = (FOLDER.parent / "constraints.txt").read_text().splitlines()
    (version,) = [line.removeprefix("torch==") for line in constraints if line.startswith("torch==")]
    assert SpecifierSet(f"=={version}").contains(f"{version}+cpu")
    lines = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    commands = [" ".join(line.split()) for line in lines if "pip install" in line]
    assert [("$TORCH_INDEX" in line, "-c constraints.txt" in line) for line in commands] == [(True, True)] * 2
    assert "--no-deps" in commands[0], "the rest is of the versions that constraints.txt has"
    assert "--index-url" not in commands[1]


def test_prometheus_finds_every_node_of_the_kubernetes_sweep() -> None:
    (monitor,) = documents("kuberay-monitor.yaml")
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    spec = monitor["spec"]
    assert spec.keys() == {"selector", "podMetricsEndpoints"}
    assert spec["selector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    assert [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]] == ["metrics"]
    for template in pod_templates(documents("kuberay-rayjob.yaml")[0]):  # KubeRay names that port where none is named
        assert not any("ports" in container for container in template["spec"]["containers"])


@pytest.mark.parametrize("name", [*RAY_UP, *KUBERNETES, "kuberay-monitor.yaml", "Dockerfile"])
def test_no_secret_is_written_down(name: str) -> None:
    for line in (FOLDER / name).read_text().splitlines():
        key, _, value = line.partition(":")
        if "password" in key.lower():
            assert not value.strip().strip("'\""), line
