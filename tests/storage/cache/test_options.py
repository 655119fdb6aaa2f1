"""options: an option becomes a cache, and a cache can be sent to other processes."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from cache_entries import (
    Maker,
    assert_content,
    key_of,
)

from dicomdl.errors import UsageError
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.memory import MemoryCache
from dicomdl.storage.cache.options import as_cache


def test_an_option_becomes_a_cache(tmp_path: Path, cache_folder: Path) -> None:
    assert as_cache(None) is None
    assert isinstance(as_cache("memory"), MemoryCache)
    assert as_cache(2**20).max_bytes == 2**20  # type: ignore[union-attr]
    assert as_cache("disk").folder == str(cache_folder / "arrays")  # type: ignore[union-attr]
    assert as_cache(tmp_path / "c").folder == str(tmp_path / "c")  # type: ignore[union-attr]
    raw, disk = as_cache("raw"), as_cache("disk")
    assert isinstance(raw, DiskCache) and isinstance(disk, DiskCache)
    assert raw.folder == disk.folder and (raw.uncompressed, disk.uncompressed) == (True, False)
    own = MemoryCache(1000)
    assert as_cache(own) is own


@pytest.mark.parametrize("option", ["tape", True, 1.5, 0, -1])
def test_another_option_is_a_usage_error(option: Any) -> None:
    with pytest.raises(UsageError, match="expected"):
        as_cache(option)


def test_caches_pickle_small_and_a_pickled_memory_cache_is_empty(tmp_path: Path) -> None:
    disk, memory = (
        DiskCache(tmp_path / "c", max_bytes=10**6, format="blosc2", strict=True),
        MemoryCache(10**6, strict=True),
    )
    for made in (disk, memory):
        made.get(key_of(0), Maker())
        data = pickle.dumps(made)
        assert len(data) < 600
        # The data were pickled one line above.
        again = pickle.loads(data)
        assert repr(again) == repr(made)
        assert again.strict is True
    maker = Maker()
    assert_content(again.get(key_of(0), maker), 0)
    assert maker.calls == 1
    assert copy.deepcopy(memory) is memory
