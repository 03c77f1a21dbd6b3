"""Checkpoints: what is saved is restored bit by bit, and what is broken is passed over."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from safetensors import safe_open

from tests.builders import REPOSITORY, xla_flags
from tests.objectstore import ObjectStore, s3
from tests.training.sft import sharded_worker
from tests.training.tiny import ALONE
from tuneloop.errors import DataError, SpecError
from tuneloop.storage import files
from tuneloop.storage.sealed import sealed
from tuneloop.training.sft.checkpoints import Checkpoints, trained_state


class Small(nnx.Module):
    """A model with every kind of state: two dtypes, a random generator and, if asked, LoRA."""

    def __init__(self, seed: int, *, lora: bool = False) -> None:
        key = jax.random.key(seed)
        self.wide = nnx.Param(jax.random.normal(key, (40, 3)))
        self.narrow = nnx.Param(jax.random.normal(key, (5,), jnp.bfloat16))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(seed))
        if lora:
            self.adapter = nnx.LoRAParam(jax.random.normal(key, (30, 2)))


class Training:
    """A model with its optimizer, whose state is another one after every step."""

    def __init__(self, seed: int = 0, *, lora: bool = False) -> None:
        self.model = Small(seed, lora=lora)
        wrt = nnx.LoRAParam if lora else nnx.Param
        self.optimizer = nnx.Optimizer(self.model, optax.adamw(0.1), wrt=wrt)
        self._wrt = wrt

    def step(self) -> None:
        self.model.dropout(jnp.ones(3))
        grads = jax.tree.map(lambda x: jnp.ones_like(x) * 0.5, nnx.state(self.model, self._wrt))
        self.optimizer.update(self.model, grads)

    def bits(self) -> list[tuple[str, bytes]]:
        state = trained_state(self.model, self.optimizer)
        return [
            (jax.tree_util.keystr(path), plain(leaf).tobytes())
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        ]


def plain(leaf: Any) -> np.ndarray:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


@pytest.fixture(params=["file", "memory"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "file" else f"memory://{uuid.uuid4().hex}"


def open_checkpoints(prefix: str, **options: Any) -> Checkpoints:
    given = {"every_steps": 2, "process_group": ALONE, **options}
    return Checkpoints(prefix, **given)


def run(prefix: str, training: Training, steps: int, **options: Any) -> list[list[Any]]:
    """Train from the newest checkpoint to a step; returns the bits after each step, from 0."""
    checkpoints = open_checkpoints(prefix, **options)
    first = checkpoints.restore(training.model, training.optimizer, stored_steps=steps)
    bits = [training.bits()]
    for step in range(first + 1, steps + 1):
        training.step()
        bits.append(training.bits())
        checkpoints.save(step, training.model, training.optimizer)
    checkpoints.close()
    return bits


def steps_in(prefix: str) -> list[int]:
    return sorted(int(name) for name in files.list_folders(f"{prefix}/checkpoints"))


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("file_bytes", [100, 1 << 20])
def test_a_restored_training_continues_with_the_same_bits(
    prefix: str, file_bytes: int, lora: bool
) -> None:
    undisturbed = run(f"{prefix}/undisturbed", Training(lora=lora), 6)
    run(f"{prefix}/resumed", Training(lora=lora), 4, file_bytes=file_bytes)
    other = Training(lora=lora)
    other.step()
    continued = run(f"{prefix}/resumed", other, 6)
    assert continued == undisturbed[4:]
    stored = [url for url in files.list_files(prefix) if "/resumed/" in url and "/4/" in url]
    assert (len(stored) > 5) == (file_bytes == 100)


def test_a_checkpoint_of_an_adapter_holds_no_base_weights(tmp_path: Path) -> None:
    run(str(tmp_path), Training(lora=True), 2)
    (file,) = tmp_path.glob("checkpoints/2/*/*.safetensors")
    with safe_open(file, "numpy") as found:
        names = " ".join(found.keys())
    assert "model/adapter" in names
    assert "optimizer/opt_state" in names
    assert "wide" not in names


def test_the_newest_are_kept_and_the_protected_one(prefix: str) -> None:
    training = Training()
    training.step()
    checkpoints = open_checkpoints(prefix)
    assert checkpoints.restore(training.model, training.optimizer, stored_steps=0) == 0
    saved = []
    for step in range(1, 12):
        if checkpoints.save(step, training.model, training.optimizer, force=step == 11):
            saved.append(step)
        if step in (3, 4):  # the second one replaces the first
            checkpoints.save_best(step, training.model, training.optimizer)
    checkpoints.close()
    assert saved == [2, 4, 6, 8, 10, 11]
    assert steps_in(prefix) == [4, 10, 11]
    assert checkpoints.published_step == 11
    best = Training(1)
    checkpoints.load(4, best.model)
    assert best.bits() != training.bits()
    checkpoints.load(4, best.model, best.optimizer)
    assert best.bits() == training.bits()
    with pytest.raises(DataError, match=r"checkpoints/6/manifest.json: is missing"):
        checkpoints.load(6, best.model)


def test_a_later_step_does_not_change_what_is_being_saved(tmp_path: Path) -> None:
    """The step's buffers are donated to the next step while the checkpoint is written."""
    training = Training()
    training.model.wide.set_value(jnp.zeros((1000, 1000)))
    checkpoints = open_checkpoints(str(tmp_path))
    checkpoints.restore(training.model, training.optimizer, stored_steps=0)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    checkpoints.save(2, training.model, training.optimizer)
    for _ in range(20):
        training.model.wide.set_value(add(training.model.wide.get_value()))
    checkpoints.close()
    checkpoints.load(2, training.model, training.optimizer)
    assert not training.model.wide.get_value().any()


def test_one_without_metrics_or_manifest_is_deleted(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    bits = run(prefix, Training(), 4)
    (manifest,) = (url for url in files.list_files(prefix) if url.endswith("4/manifest.json"))
    files.delete_tree(manifest)
    files.write(f"{prefix}/checkpoints/6/0badcafe/00000-00000.safetensors", b"half")
    caplog.set_level(logging.INFO, "tuneloop")
    training = Training(1)
    checkpoints = open_checkpoints(prefix)
    assert checkpoints.restore(training.model, training.optimizer, stored_steps=9) == 2
    assert training.bits() == bits[2]
    assert steps_in(prefix) == [2]
    assert "checkpoints/6: no manifest" in caplog.text
    assert open_checkpoints(prefix).restore(training.model, training.optimizer, 1) == 0
    assert steps_in(prefix) == []


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def resealed(manifest: dict[str, Any]) -> bytes:
    del manifest["seal"]
    return json.dumps(sealed(manifest)).encode()


def other_model(data: bytes) -> bytes:
    manifest = json.loads(data)
    name = next(name for name in manifest["arrays"] if "wide" in name)
    manifest["arrays"][name]["shape"] = [41, 3]
    return resealed(manifest)


def missing_array(data: bytes) -> bytes:
    manifest = json.loads(data)
    manifest["files"] = manifest["files"][1:]
    return resealed(manifest)


def strange_piece(data: bytes) -> bytes:
    manifest = json.loads(data)
    manifest["files"][0]["pieces"][0]["start"] = [1000]
    return resealed(manifest)


def other_name(data: bytes) -> bytes:
    """The piece of one row begins at another one, which no tensor of the file does."""
    manifest = json.loads(data)
    piece = next(p for f in manifest["files"] for p in f["pieces"] if p["start"] == [8, 0])
    piece["start"] = [9, 0]
    return resealed(manifest)


def other_step(data: bytes) -> bytes:
    return resealed({**json.loads(data), "step": 3})


def outside(data: bytes) -> bytes:
    manifest = json.loads(data)
    manifest["files"][0]["name"] = "../2/" + manifest["files"][0]["name"]
    return resealed(manifest)


def digit(data: bytes) -> bytes:
    """Exchange two digits of a number that nothing else in the file depends on."""
    at = data.index(b'"step": 4') + len(b'"step": ')
    return data[:at] + b"2" + data[at + 1 :]


@pytest.mark.parametrize(
    ("pattern", "damage", "words"),
    [
        ("4/*/00000-00001.safetensors", cut, "00000-00001.safetensors: holds"),
        ("4/*/00000-00001.safetensors", flip, "00000-00001.safetensors: sha256 is"),
        ("4/*/00000-00001.safetensors", None, "00000-00001.safetensors: is missing"),
        ("4/manifest.json", cut, "4/manifest.json: "),
        ("4/manifest.json", other_model, "model/wide/value is float32 [41, 3], expected"),
        ("4/manifest.json", missing_array, "holds only a part of"),
        ("4/manifest.json", strange_piece, "4/manifest.json: "),
        ("4/manifest.json", other_name, "model/wide/value@9,0 of"),
        ("4/manifest.json", other_step, "4/manifest.json: holds step 3, expected step 4"),
        ("4/manifest.json", outside, "leads out of the checkpoint"),
        ("4/manifest.json", digit, "its seal is not the digest of its content"),
    ],
)
def test_a_broken_one_is_named_and_the_one_before_is_used(
    pattern: str,
    damage: Callable[[bytes], bytes] | None,
    words: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bits = run(str(tmp_path), Training(), 4, file_bytes=100)
    (path,) = tmp_path.glob(f"checkpoints/{pattern}")
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    training = Training(1)
    resumed = run(str(tmp_path), training, 4)
    assert resumed == bits[2:]
    assert "checkpoint of step 4 is unusable, using an older one" in caplog.text
    assert words in caplog.text
    assert run(str(tmp_path), Training(1), 4) == bits[4:]  # It was stored again.


def test_if_all_are_broken_training_starts_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = run(str(tmp_path), Training(), 4)
    for path in tmp_path.glob("checkpoints/*/*/*.safetensors"):
        path.write_bytes(cut(path.read_bytes()))
    assert run(str(tmp_path), Training(), 4) == undisturbed
    assert steps_in(str(tmp_path)) == [2, 4]
    assert "no usable checkpoint is left, so training starts again from step 0" in caplog.text


def test_a_folder_of_another_step_is_not_taken_for_it(tmp_path: Path) -> None:
    bits = run(str(tmp_path), Training(), 4)
    places = [tmp_path / "checkpoints" / name for name in ("2", "4", "swapped")]
    for source, target in ((0, 2), (1, 0), (2, 1)):
        places[source].rename(places[target])
    assert run(str(tmp_path), Training(), 4) == bits


def test_a_best_step_that_is_damaged_deletes_the_checkpoints(tmp_path: Path) -> None:
    training = Training()
    run(str(tmp_path), training, 4)
    checkpoints = open_checkpoints(str(tmp_path))
    checkpoints.restore(training.model, training.optimizer, stored_steps=4)
    (path,) = tmp_path.glob("checkpoints/2/*/*.safetensors")
    path.write_bytes(flip(path.read_bytes()))
    bits = training.bits()
    assert not checkpoints.load_or_drop(2, training.model, training.optimizer)
    assert training.bits() == bits
    assert steps_in(str(tmp_path)) == []


def test_a_store_that_refuses_for_good_ends_training(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a folder is needed")
    training = Training()
    checkpoints = open_checkpoints(str(tmp_path))
    checkpoints.restore(training.model, training.optimizer, stored_steps=0)
    checkpoints.save(2, training.model, training.optimizer)
    with pytest.raises(SpecError, match="checkpoints"):
        checkpoints.save(4, training.model, training.optimizer)


@pytest.fixture(scope="module")
def bucket() -> Any:
    with s3() as found:
        yield found


def test_a_store_that_is_away_does_not_stop_training(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    prefix, training = bucket.url("away"), Training()
    checkpoints = open_checkpoints(prefix)
    checkpoints.restore(training.model, training.optimizer, stored_steps=0)
    checkpoints.save(2, training.model, training.optimizer)
    checkpoints.close()
    assert checkpoints.published_step == 2
    since = time.monotonic()
    checkpoints = open_checkpoints(prefix, stalled_seconds=1.0)
    checkpoints.restore(training.model, training.optimizer, stored_steps=2)
    with bucket.proxy.failing(1.0):
        training.step()
        assert checkpoints.save(4, training.model, training.optimizer)
        assert not checkpoints.save(6, training.model, training.optimizer)
        checkpoints.close()
        assert time.monotonic() - since < 10
        assert checkpoints.published_step == 2
    assert "step 6 is not saved: the storage does not answer" in caplog.text
    assert "the last checkpoint is not stored: the storage does not answer" in caplog.text
    # The upload of step 4 goes on, and succeeds once the store is back.
    checkpoints.load(4, training.model)
    assert checkpoints.published_step == 4


def test_processes_store_their_own_shards_and_any_number_restores_them(tmp_path: Path) -> None:
    """Two processes with two devices each; a file that one of them cannot read stops both."""
    codes, logs = run_group("tests.training.sft.sharded_worker", tmp_path)
    assert codes == [0, 0], logs
    by_process = [len(list(tmp_path.glob(f"checkpoints/2/*/{n:05d}-*.safe*"))) for n in (0, 1)]
    assert min(by_process) >= 2
    model, optimizer = sharded_worker.trained(ALONE, 0.0)
    assert open_checkpoints(str(tmp_path)).restore(model, optimizer, stored_steps=9) == 2
    sharded_worker.check(model)


def run_group(module: str, prefix: Path) -> tuple[list[int], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    env = {
        **os.environ,
        "XLA_FLAGS": xla_flags(devices=2),
        "TUNELOOP_PROCESSES": "2",
        "TUNELOOP_COORDINATOR": address,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(prefix)],
            cwd=REPOSITORY,
            env={**env, "TUNELOOP_PROCESS_ID": str(index)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        logs = "\n".join(process.communicate(timeout=180)[1][-3000:] for process in processes)
    finally:
        for process in processes:
            process.kill()
    return [process.wait() for process in processes], logs
