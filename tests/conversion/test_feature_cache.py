"""The cache of features: what goes in comes out, damage and full disks do no harm, it stays small."""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc.conversion.feature_cache import FeatureCache, default_folder
from svc.errors import ConfigError

KEY, OTHER = "ab" + "0" * 62, "cd" + "1" * 62


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features")


def entries(cache: FeatureCache) -> list[Path]:
    return sorted(cache.folder.glob("*/*.npz"))


def test_what_goes_in_comes_out(cache: FeatureCache, rng: np.random.Generator) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "f0": rng.standard_normal((3, 5)).astype(np.float32),
        "uv": np.array([np.nan, -0.0, np.inf]),
        "empty": np.zeros((1, 0), np.float16),
    }
    assert cache.get(KEY) is None
    cache.put(KEY, arrays)
    found = cache.get(KEY)
    assert found is not None
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes()
    assert cache.get(OTHER) is None
    assert (cache.hits, cache.misses) == (1, 2)


@pytest.mark.parametrize("part", ["head", "middle", "end", "all", "pickle"])
def test_a_damaged_entry_is_dropped(
    cache: FeatureCache, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="svc")
    cache.put(KEY, {"f0": np.arange(1000.0)})
    (path,) = entries(cache)
    content = bytearray(path.read_bytes())
    if part == "head":
        content[3] ^= 1
        content[0] ^= 1
    elif part == "middle":
        content[len(content) // 2] ^= 1
    elif part == "end":
        del content[-100:]
    elif part == "all":
        content.clear()
    else:
        np.savez(path, f0=np.array([os.system], dtype=object), allow_pickle=True)
        content = bytearray(path.read_bytes())
    path.write_bytes(content)
    if part == "head":
        path.write_bytes(pickle.dumps(os.system))
    assert cache.get(KEY) is None
    assert not path.exists()
    assert "is damaged and removed" in caplog.text
    cache.put(KEY, {"f0": np.arange(3.0)})
    assert cache.get(KEY) is not None


def test_the_oldest_by_use_goes(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit_gb=1e-4)  # 100 kB: five entries
    keys = [f"{index:02x}" + "0" * 62 for index in range(6)]
    for age, key in enumerate(keys[:4]):
        cache.put(key, {"f0": np.zeros(2400)})
        os.utime(cache.folder / key[:2] / f"{key}.npz", (age, age))
    assert cache.get(keys[0]) is not None  # is the youngest now
    for key in keys[4:]:
        cache.put(key, {"f0": np.zeros(2400)})
    kept = {path.stem for path in entries(cache)}
    assert kept == {keys[0], keys[3], keys[4], keys[5]}
    assert sum(path.stat().st_size for path in entries(cache)) <= 100_000


def test_entries_of_other_processes_count(tmp_path: Path) -> None:
    one, two = FeatureCache(tmp_path, limit_gb=1e-4), FeatureCache(tmp_path, limit_gb=1e-4)
    for index in range(20):
        cache = (one, two)[index % 2]
        cache.put(f"{index:02x}" + "0" * 62, {"f0": np.zeros(2400)})
        assert sum(path.stat().st_size for path in entries(one)) <= 130_000


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit_gb=1e-5)
    cache.put(KEY, {"f0": np.zeros(2000)})
    assert not entries(cache)


def test_abandoned_temporary_files_go(cache: FeatureCache) -> None:
    folder = cache.folder / "ab"
    folder.mkdir(parents=True)
    for name, age in ((".tmp-old.npz", 7200), (".tmp-new.npz", 0)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    cache.put(KEY, {"f0": np.zeros(3)})
    assert sorted(path.name for path in folder.iterdir()) == [".tmp-new.npz", f"{KEY}.npz"]


def test_a_folder_that_takes_nothing_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / "file" / "features")
    for key in (KEY, OTHER):
        assert cache.get(key) is None
        cache.put(key, {"f0": np.zeros(3)})
    assert len(caplog.records) == 1
    assert "--no_cache" in caplog.text


def test_many_at_once(tmp_path: Path) -> None:
    """Threads with caches of their own, on one folder that is always too small."""
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        cache = FeatureCache(tmp_path, limit_gb=2e-5)
        try:
            for _ in range(60):
                number = int(rng.integers(12))
                key = f"{number:02x}" + "0" * 62
                found = cache.get(key)
                if found is not None:
                    np.testing.assert_array_equal(found["f0"], np.full(400, number))
                cache.put(key, {"f0": np.full(400, number)})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_limits(tmp_path: Path) -> None:
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="--cache_gb"):
            FeatureCache(tmp_path, limit)


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SVC_CACHE_DIR", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own" / "features"
    monkeypatch.delenv("SVC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "svc" / "features"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("svc.conversion.feature_cache.sys.platform", "linux")
    assert default_folder() == tmp_path / ".cache" / "svc" / "features"

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert default_folder() is None
