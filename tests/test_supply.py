"""What is read and installed: no code in models, no unpinned package in images."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("deepergatgnn", "model_store", "training", "service", "commands")
# Modules that turn bytes into objects by running code, and calls that may.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "code"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "torch.package.PackageImporter",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "pandas.read_pickle",
    "pd.read_pickle",
    "numpy.load",
    "MontyDecoder",
    "loadfn",
}
LOADERS = {"np.load"}  # only with allow_pickle=False


def violations(source: str) -> Iterator[str]:
    """Everything in a module that could run what a file says."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names if alias.name.split(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module), names=names):
                full = [f"{module}.{alias.name}" for alias in names]
                found = [module] if module.split(".")[0] in MODULES else [name for name in full if name in CALLS]
            case ast.Call(func=func, keywords=keywords):
                name = ast.unparse(func)
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in keywords}
                found = [name] if name in CALLS or name.rpartition(".")[2] in {"read_pickle", "loadfn"} else []
                found += [f"{name}({key}={value})" for key, value in options.items() if (key, value) in UNSAFE]
                found += [name] if name in LOADERS and options.get("allow_pickle") != "False" else []
            case _:
                found = []
        yield from found


UNSAFE = {("allow_pickle", "True"), ("weights_only", "False"), ("shell", "True")}


def test_no_module_can_run_what_a_file_says() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if (names := list(violations(path.read_text("utf-8"))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, cloudpickle as c",
        "from joblib import load",
        "def f():\n    from pickle import loads",
        "torch.load(path)",
        "from torch import load",
        "eval(text)",
        "exec(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "frame = pd.read_pickle(path)",
        "f(weights_only=False)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_this_check_would_notice(source: str) -> None:
    assert list(violations(source))


def test_this_check_lets_the_harmless_pass() -> None:
    harmless = "import json\nnetwork.eval()\nre.compile(text)\nyaml.safe_load(text)\nnp.load(path, allow_pickle=False)"
    assert list(violations(harmless)) == []


def test_a_checkpoint_is_safetensors_json_and_what_people_read() -> None:
    suffixes = {path.suffix for path in (ROOT / "model_store" / "checkpoints").rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".md", ".png", ".sha256", ""}


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    """The script that writes the lists."""
    spec = importlib.util.spec_from_file_location("lock", ROOT / "docker" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lists_hold_what_the_project_needs_in_the_versions_of_the_constraints(lock: ModuleType) -> None:
    assert lock.differences() == []


def test_every_package_of_an_image_has_a_hash(lock: ModuleType) -> None:
    for image in ("api", "worker", "build"):
        locked = lock.read_lock(ROOT / "docker" / f"{image}.lock")
        assert locked
        for name, (version, digests) in locked.items():
            assert re.fullmatch(r"\d[\w.]*", version), name
            assert digests, name
            assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests), name
    assert "torch" not in lock.read_lock(ROOT / "docker" / "api.lock")


def test_a_difference_is_found(lock: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (ROOT / "docker").glob("*.lock"):
        text = path.read_text("utf-8").replace("redis==", "redis==0.")
        (tmp_path / path.name).write_text(text + f"stranger==1.0 --hash=sha256:{'0' * 64}\n", "utf-8")
    monkeypatch.setattr(lock, "FOLDER", tmp_path)
    found = lock.differences()
    assert {each.split(" is ")[0] for each in found} >= {
        "api.lock: redis",
        "worker.lock: redis",
        "build.lock: stranger",
    }


def test_the_images_install_by_hash() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    installs = [line for line in text.splitlines() if re.search(r"\bpip\b.*\b(?:install|wheel) -", line)]
    others = [line for line in installs if "--require-hashes --no-deps" not in line]
    assert len(installs) - len(others) == 5
    for line in others:  # the project itself, and torch
        assert ("--no-deps" in line and "wheels" in line) or "/torch.txt" in line, line


def test_containers_have_no_root_no_capabilities_and_nothing_to_write() -> None:
    import yaml  # noqa: PLC0415 - the rest of this file needs none

    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    assert set(services) == {"broker", "api", "worker", "worker-gpu"}
    for name, each in services.items():
        assert each["read_only"] is True, name
        assert each["cap_drop"] == ["ALL"], name
        assert each["security_opt"] == ["no-new-privileges:true"], name
        assert each.get("privileged", False) is False, name
        mounts = [mount for mount in each.get("volumes", []) if not mount.endswith(":ro")]
        assert mounts == (["broker:/data"] if name == "broker" else []), name
        assert "ports" not in each, name
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
    runtime = dockerfile[dockerfile.index(" AS runtime") :]
    assert re.findall(r"^USER (.*)$", runtime, re.MULTILINE) == ["10001:10001"]
    assert services["broker"]["user"] == "redis"
