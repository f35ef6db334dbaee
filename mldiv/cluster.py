"""What a Ray cluster has, and what its autoscaler may add to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import yaml

#: A node's resources as Ray counts them, "CPU" and "GPU" among them.
Node = Mapping[str, float]

#: Where `ray up` leaves the configuration, each node type's resources filled in, on the head.
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")


def nodes() -> list[Node]:
    """What each living node of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def largest(path: Path = BOOTSTRAP) -> list[Node]:
    """The head and every worker that the autoscaler of a cluster made by `ray up` may start, those with most GPUs first; empty
    elsewhere, and where the nodes are a fixed list. Only the head knows."""
    try:
        config: Any = yaml.safe_load(path.expanduser().read_text())
        types, head = dict(config["available_node_types"]), config["head_node_type"]
        first = types.pop(head)["resources"]
        total = config["max_workers"]
        workers = [one["resources"] for one in types.values() for _ in range(one.get("max_workers", total))]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []
    workers.sort(key=lambda node: (-node.get("GPU", 0), -node.get("CPU", 0)))
    return [first, *workers[:total]] if workers else []
