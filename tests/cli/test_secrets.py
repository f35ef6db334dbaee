"""A secret in a URL is refused before any work, and neither printed nor stored; so is what Ray would write into its logs."""

import sys

import pytest

from analysis import __main__ as analysis
from mldiv.cli.main import main
from mldiv.doctor import __main__ as doctor
from mldiv.environment.terminal import hide_secrets
from mldiv.storage.object_store import Remote, check_no_secret

SECRET = "zRt4/q+9"
URLS = [
    f"s3://KEY:{SECRET}@bucket/x", f"S3://KEY:{SECRET}@bucket/x?region=eu", f"s3://KEY:12/{SECRET}@bucket/x",
    f"gs://user:{SECRET}@bucket/x", "hdfs://user:zRt4@host:8020/x", f"abfs://:{SECRET}@account.host/x",
    "abfs://account.host/x?sv=1&sig=zRt4", "s3://bucket/x?secret_key=zRt4&region=eu",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_it_is_hidden(url):
    assert "zRt4" not in hide_secrets(url)
    for refuses in (check_no_secret, Remote):
        with pytest.raises(ValueError, match="must hold no secret") as error:
            refuses(url)
        assert "zRt4" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/a:b@c", "hdfs://host:8020/a@b", "s3://bucket/x?region=eu&endpoint_override=http://localhost:9000",
        "gs://anonymous@bucket/x", "/folder/a:b@c", "s3://bucket/keys?scheme=http",
    ],
)  # fmt: skip
def test_what_is_no_secret_is_left_as_it_is(url):
    assert hide_secrets(url) == url
    check_no_secret(url)


URL = URLS[0]


@pytest.mark.parametrize(
    "flags",
    [
        ["--out", URL], ["--cache", URL], ["--data-root", URL, "--data", "cifar10"], ["--output", URL],
        ["--dry-run", "--out", URL],
        ["--out", f"s3://KEY:{SECRET}@bucket"],
    ],
)  # fmt: skip
def test_a_study_neither_prints_nor_stores_it(load_study, capsys, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(load_study("kernel_sweep"), lambda folder, place: "", ["--preset", "demo", "--in-process", *flags])
    except SystemExit as end:  # an unknown flag
        code = end.code
    assert code == 2
    said = "".join(capsys.readouterr())
    assert "zRt4" not in said and "***" in said
    assert not any("zRt4" in path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())


def test_nor_where_the_environment_names_the_place(load_study, capsys, monkeypatch):
    monkeypatch.setenv("MLDIV_RESULTS", URL)
    assert main(load_study("kernel_sweep"), lambda folder, place: "", ["--preset", "demo", "--in-process"]) == 2
    assert "zRt4" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("argv", [[URL], ["--out", URL, "x"], ["--outt", URL, "x"]])
def test_nor_does_the_analysis(capsys, tmp_path, monkeypatch, argv):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["analysis", *argv])
    try:
        code = analysis.main()
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert "zRt4" not in "".join(capsys.readouterr())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--out", "--cache", "--data-root", "--outt"])
def test_nor_does_the_doctor(capsys, monkeypatch, flag):
    monkeypatch.setattr(doctor, "CHECKS", {"Ray": lambda flags: doctor.Finding(doctor.FAILED, "not tried"), **LOCATIONS})
    try:
        doctor.main(["--preset", "demo", "--address", "local", flag, URL])
    except SystemExit as end:
        assert end.code == 2
    said = "".join(capsys.readouterr())
    assert "zRt4" not in said and "***" in said


LOCATIONS = {**doctor.locations.CHECKS, "data": doctor.locations.data}


def test_tune_hands_on_no_keys(monkeypatch):
    """Ray's agent writes what Tune hands to its trials into a log that everybody on the machine may read."""
    from ray.tune.execution import class_cache

    from mldiv.cluster.ray_private import KEYS, keep_keys

    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", set(class_cache.ENV_VARS_TO_PROPAGATE) | KEYS)
    for name in KEYS:
        monkeypatch.setenv(name, "zRt4")
    handed = []
    monkeypatch.setattr(class_cache.ray, "remote", lambda runtime_env: lambda cls: handed.append(runtime_env) or cls)
    class_cache._ActorClassCache().get(type("Before", (), {}))
    keep_keys()
    class_cache._ActorClassCache().get(type("After", (), {}))
    assert handed[0]["env_vars"].keys() >= KEYS
    assert not KEYS & handed[1]["env_vars"].keys()
