"""Keys as they are written down, read again and made."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from deepergatgnn.errors import ConfigError
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http import access as authentication
from deepergatgnn.service.http.access import Keys
from deepergatgnn.service.http.api_keys import MAX_FILE_BYTES, Key, digest_of, new_key, parse_key, read_keys
from deepergatgnn.service.http.rate_limits import Rate
from deepergatgnn.service.settings import read_settings
from tests.conftest import COMMAND, ROOT

SECRET = "a-key-that-nobody-may-read"  # noqa: S105 - opens nothing
HEX = digest_of(SECRET).hex()


def line(name: str, key: str, *options: str) -> str:
    return " ".join([name, f"sha256:{digest_of(key).hex()}", *options])


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (SECRET, Key("key-7", digest_of(SECRET))),
        (f"  {SECRET} ", Key("key-7", digest_of(SECRET))),
        (f"sha256:{HEX}", Key("key-7", digest_of(SECRET))),
        (f"sha256:{HEX.upper()}", Key("key-7", digest_of(SECRET))),
        (f"alice sha256:{HEX}", Key("alice", digest_of(SECRET))),
        (f"alice\tsha256:{HEX}  rate=5", Key("alice", digest_of(SECRET), Rate(5, 50))),
        (f"a.b-c_2 sha256:{HEX} burst=3 rate=0.5", Key("a.b-c_2", digest_of(SECRET), Rate(0.5, 3))),
        (f"alice sha256:{HEX} disabled rate=1e2", Key("alice", digest_of(SECRET), Rate(100, 1000), disabled=True)),
    ],
)
def test_a_key_is_read(text: str, key: Key) -> None:
    assert parse_key(text, 7) == key


@pytest.mark.parametrize(
    "text",
    [
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{SECRET}",
        f"alice bob sha256:{HEX}",
        f"-alice sha256:{HEX}",
        f"alïce sha256:{HEX}",
        f"{'a' * 65} sha256:{HEX}",
        *(
            f"alice sha256:{HEX} {options}"
            for options in ("rate", "rate=", "rate=x", "rate=0", "rate=-1", "rate=nan", "rate=inf", "burst=2", "rat=1")
        ),
        *(
            f"alice sha256:{HEX} {options}"
            for options in ("rate=1 rate=2", "rate=1 burst=0", "disabled disabled", "off")
        ),
        f"alice sha256:{HEX} sha256:{HEX}",
    ],
)
def test_what_is_no_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigError, match="key 7") as caught:
        parse_key(text, 7)
    assert SECRET not in str(caught.value)
    assert HEX not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no key"),
        (b"# nobody\n\n", "holds no key"),
        (SECRET.encode(), "line 1 has no sha256:HEX"),
        (f"# one\n{line('a', 'k')}\nalice\n".encode(), "line 3 has no sha256:HEX"),
        (f"{line('a', 'k')}\n{line('a', 'l')}\n".encode(), "holds the name a twice"),
        (f"{line('a', 'k')}\n{line('b', 'k')}\n".encode(), "holds the digest"),
        (b"\xff\xfe", "not UTF-8"),
        (line("a", "k").encode() + b"\n" * MAX_FILE_BYTES, "more than"),
    ],
)
def test_what_is_no_keys_file_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_keys(path)
    assert SECRET not in str(caught.value)
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="cannot be read"):
            Keys(path=place)


def test_the_file_stands_above_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(
        "\ufeff" + line("alice", SECRET, "disabled") + "\r\n# a remark\r\n" + line("bob", "b") + "\r\n", "utf-8"
    )
    keys = Keys([SecretStr(SECRET), SecretStr("plain")], path)
    assert keys.check(bearer("b")).name == "bob"
    assert keys.check({"x-api-key": "plain"}).name == "key-2"
    with pytest.raises(ServiceError) as caught:
        keys.check(bearer(SECRET))
    assert caught.value.code == "key_disabled"


def test_a_key_is_found_wherever_it_stands() -> None:
    keys = Keys([SecretStr(f"k{n}") for n in range(5)])
    assert [keys.check(bearer(f"k{n}")).name for n in range(5)] == [f"key-{n + 1}" for n in range(5)]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("wrong"),
        bearer(SECRET + "x"),
        bearer(SECRET.upper()),
        bearer(f"sha256:{HEX}"),
        bearer(HEX),
        {"authorization": SECRET},
        {"authorization": f"Basic {SECRET}"},
        {"x-api-key": ""},
        {"x-api-key": HEX},
        {"authorization": "Bearer wrong", "x-api-key": SECRET},
    ],
)
def test_a_missing_or_wrong_key_is_not_let_in(headers: dict[str, str]) -> None:
    keys = Keys([SecretStr(SECRET)])
    with pytest.raises(ServiceError) as caught:
        keys.check(headers)
    assert caught.value.code == "unauthorized"


def test_a_key_beyond_ascii_is_compared_by_its_bytes() -> None:
    keys = Keys([SecretStr("schlüssel")])
    assert keys.check(bearer("schlüssel".encode().decode("latin-1"))).name == "key-1"


def replace_file(path: Path, text: str) -> None:
    """As an operator should: beside it, then over it."""
    beside = path.with_name("beside")
    beside.write_text(text, "utf-8")
    beside.replace(path)


def test_a_changed_file_is_read_again_and_spent_crystals_stay_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "FRESH_S", 0.0)
    path = tmp_path / "keys"
    path.write_text(line("alice", "a", "rate=0.001", "burst=2"), "utf-8")
    keys = Keys(path=path)
    keys.check(bearer("a")).spend(2)
    replace_file(path, line("alice", "a", "rate=0.001", "burst=2") + "\n" + line("bob", "b"))
    assert keys.check(bearer("b")).name == "bob"
    with pytest.raises(ServiceError, match="'alice' may ask"):
        keys.check(bearer("a")).spend(1)
    replace_file(path, line("alice", "a", "rate=0.001", "burst=3"))
    keys.check(bearer("a")).spend(3)
    with pytest.raises(ServiceError, match="missing or wrong"):
        keys.check(bearer("b"))


@pytest.mark.parametrize("broken", ["", "# gone\n", SECRET, "alice sha256:12", None])
def test_a_broken_file_keeps_the_keys_before_it(
    broken: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(authentication, "FRESH_S", 0.0)
    path = tmp_path / "keys"
    path.write_text(line("alice", "a"), "utf-8")
    keys = Keys(path=path)
    path.unlink() if broken is None else replace_file(path, broken)
    for _ in range(3):
        assert keys.check(bearer("a")).name == "alice"
    assert capsys.readouterr().out.count("keys file not taken over") == 1
    replace_file(path, line("bob", "b"))
    assert keys.check(bearer("b")).name == "bob"
    assert "keys file read again" in capsys.readouterr().out


def test_the_file_is_looked_at_once_a_second(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(line("alice", "a"), "utf-8")
    keys = Keys(path=path)
    keys._looked = time.monotonic() + 3600  # just looked
    replace_file(path, line("bob", "b"))
    assert keys.check(bearer("a")).name == "alice"
    keys._looked = time.monotonic() - 2 * authentication.FRESH_S
    assert keys.check(bearer("b")).name == "bob"


def test_new_keys_are_long_and_differ() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(len(key) >= 43 + len("dgn_") and key.startswith("dgn_") for key in made)


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=ROOT, check=False, env=os.environ | environment
    )


def test_a_key_that_was_made_opens_the_door(tmp_path: Path) -> None:
    done = run("keys", "new", "alice", "--rate", "2.5")
    assert done.returncode == 0, done.stderr
    key, written = (text.partition(": ")[2] for text in done.stdout.splitlines())
    path = tmp_path / "keys"
    path.write_text(written + "\n", "utf-8")
    assert read_keys(path) == [Key("alice", digest_of(key), Rate(2.5, 25))]
    assert Keys(path=path).check(bearer(key)).name == "alice"
    made = json.loads(run("keys", "new", "bob", "--json").stdout)
    assert parse_key(made["line"], 1) == Key("bob", digest_of(made["key"]))


@pytest.mark.parametrize(
    "arguments", [["a b"], [""], ["alice", "--rate", "0"], ["alice", "--burst", "3"], ["sha256:0"]]
)
def test_a_wrong_name_or_rate_makes_no_key(arguments: list[str]) -> None:
    done = run("keys", "new", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("deepergatgnn: ")


@pytest.mark.parametrize(
    ("content", "environment", "reason"),
    [
        ("", {}, "holds no key"),
        (None, {}, "cannot be read"),
        ("", {"DEEPERGATGNN_API_KEYS": "k"}, "holds no key"),
        (line("a", "k"), {"DEEPERGATGNN_API_KEYS": "alice sha256:12"}, "key 1 is not NAME"),
    ],
)
@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_settings_without_keys_are_refused(
    content: str | None,
    environment: dict[str, str],
    reason: str,
    host: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if content is not None:
        (tmp_path / "keys").write_text(content, "utf-8")
    for name, value in (environment | {"DEEPERGATGNN_API_KEYS_FILE": str(tmp_path / "keys")}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=reason):
        Keys.of(read_settings(host=host))


def test_a_file_without_keys_never_opens_the_service(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("", "utf-8")
    done = run("serve", "--port", "0", DEEPERGATGNN_API_KEYS_FILE=str(tmp_path / "keys"))
    assert done.returncode == 2
    assert "holds no key" in done.stderr
    assert done.stdout == ""
