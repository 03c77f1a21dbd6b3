"""A user without a home folder, such as an unknown uid in a container."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from tuneloop.errors import UsageError
from tuneloop.history import index_cache
from tuneloop.k8s.registry.credentials import find_credentials
from tuneloop.runs.local import process_env
from tuneloop.storage import paths


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_nothing_needs_a_home() -> None:
    assert paths.home_folder() is None
    assert paths.cache_folder() is None
    assert find_credentials("registry.example") is None
    env = process_env(Path("/tmp/termination"), {})
    assert env["TUNELOOP_TERMINATION_LOG"] == "/tmp/termination"
    assert "JAX_COMPILATION_CACHE_DIR" not in env
    assert index_cache._own_cache("/artifacts") is None


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("place", ["~", "~/artifacts"])
def test_a_place_in_no_home_is_refused(place: str) -> None:
    with pytest.raises(UsageError, match=r"^~.*: this user has no home folder"):
        paths.normal(place)


def test_the_folder_of_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.cache_folder({}) == tmp_path / ".cache"
    assert paths.cache_folder({"XDG_CACHE_HOME": "relative"}) == tmp_path / ".cache"
    assert paths.cache_folder({"XDG_CACHE_HOME": "/cache"}) == Path("/cache")
