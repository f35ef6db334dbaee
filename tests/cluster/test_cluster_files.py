"""The cluster files by Ray's own checks: their schema, and cluster.yaml through its AWS launcher against moto's AWS."""

import contextlib
from pathlib import Path

import pytest
import yaml
from helpers.object_store import serve

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "cluster.yaml"


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("cluster*.yaml")))
def test_a_file_follows_rays_schema(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / name).read_text()))
    validate_config(config)
    with pytest.raises(Exception, match="max_wrkers"):
        validate_config(config | {"max_wrkers": 3})


def test_on_demand_machines_are_as_the_spot_ones():
    types = yaml.safe_load(FILE.read_text())["available_node_types"]
    spot, on_demand = (dict(types[name]["node_config"]) for name in ("gpu_spot", "gpu_on_demand"))
    assert types["gpu_spot"]["max_workers"] == types["gpu_on_demand"]["max_workers"] > 0
    assert spot.pop("InstanceMarketOptions") == {"MarketType": "spot"} and spot == on_demand


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    """The cluster's instances by node type, and its security groups, after Ray has prepared and started one of each."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # where Ray puts the key pair
        patch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
        stack.enter_context(serve())
        import boto3
        from ray.autoscaler._private.aws import config as launcher
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
        from ray.autoscaler._private.util import prepare_config, validate_config

        patch.setattr(launcher.time, "sleep", lambda seconds: None)  # for AWS to spread the news of a role
        text = FILE.read_text()
        ec2 = boto3.client("ec2", region_name=yaml.safe_load(text)["provider"]["region"])
        config = prepare_config(yaml.safe_load(text.replace("ami-CHANGE-ME", ec2.describe_images()["Images"][0]["ImageId"])))
        validate_config(config)
        (Path.home() / ".ssh").mkdir()
        config = launcher.bootstrap_aws(config)
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, kind in config["available_node_types"].items():
            head = config["head_node"] if name == config["head_node_type"] else {}
            provider.create_node(head | kind["node_config"], {"ray-user-node-type": name}, 1)
        found = [instance for reservation in ec2.describe_instances()["Reservations"] for instance in reservation["Instances"]]
        instances = {
            tag["Value"]: instance for instance in found for tag in instance["Tags"] if tag["Key"] == "ray-user-node-type"
        }
        yield instances, ec2.describe_security_groups()["SecurityGroups"], launcher.DEFAULT_AMI.values()


def test_a_head_without_gpu_and_workers_spot_or_on_demand(aws):
    instances, _, _ = aws
    got = {name: (instance["InstanceType"], instance.get("InstanceLifecycle")) for name, instance in instances.items()}
    assert got == {"head": ("m6i.xlarge", None), "gpu_on_demand": ("g5.2xlarge", None), "gpu_spot": ("g5.2xlarge", "spot")}


def test_every_machine_may_use_the_bucket(aws):
    assert all(instance["IamInstanceProfile"]["Arn"].endswith("/ray-autoscaler-v1") for instance in aws[0].values())


def test_the_image_is_not_rays_own_which_is_too_old(aws):
    instances, _, old = aws
    assert len({instance["ImageId"] for instance in instances.values()}) == 1
    assert not {instance["ImageId"] for instance in instances.values()} & set(old)


def test_nothing_is_open_to_the_outside_but_ssh(aws):
    instances, groups, _ = aws
    used = {group["GroupId"] for instance in instances.values() for group in instance["SecurityGroups"]}
    rules = [rule for group in groups if group["GroupId"] in used for rule in group["IpPermissions"]]
    outside = [rule for rule in rules if rule["IpRanges"] or rule["Ipv6Ranges"] or rule["PrefixListIds"]]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in outside] == [("tcp", 22, 22)]
    assert {pair["GroupId"] for rule in rules for pair in rule["UserIdGroupPairs"]} == used
