"""Settings, from the environment."""

import pytest
from pydantic import SecretStr, ValidationError

from deepergatgnn.service.settings import Settings


def test_beyond_loopback_only_with_a_key() -> None:
    with pytest.raises(ValidationError, match="there is no key"):
        Settings(host="0.0.0.0")
    assert Settings(host="0.0.0.0", api_keys=(SecretStr("k"),)).host == "0.0.0.0"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPERGATGNN_API_KEYS", "alpha, beta,")
    monkeypatch.setenv("DEEPERGATGNN_REDIS_URL", "")
    found = Settings()
    assert [key.get_secret_value() for key in found.api_keys] == ["alpha", "beta"]
    assert found.redis_url is None
    assert "alpha" not in repr(found)
