"""Contracts as test classes: subclass one in your tests, say how to make yours, and run pytest.

class TestMyCache(CacheContract):
    def make(self, folder: Path) -> VolumeCache:
        return MyCache(folder)
"""

from __future__ import annotations

import os
import pickle
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dicomdata.catalog import scan
from dicomdata.errors import CacheError, PixelError, StaleError
from dicomdata.regions import Region
from dicomdata.stack import Policy, plan_stacks
from dicomdata.testing.phantoms import ramp, write_series
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomdata.cache import VolumeCache
    from dicomdata.stack import Stack
    from dicomdata.volume import Volume


BOXES = (
    Region(),
    Region(slices=slice(1, 3), rows=slice(1, 3), columns=slice(2, 5)),
    Region(slices=slice(-2, None), columns=slice(None, -1)),
    Region(rows=slice(3, 99)),
    Region(slices=slice(2, 3), rows=slice(0, 1), columns=slice(5, 6)),
)
"""Boxes of a phantom of (5, 4, 6) voxels: all, inside, from its end, beyond it, one voxel."""


def logged_read(
    stack: Stack, region: Region | None = None, *, log: str | Path, dtype: str = "float32"
) -> Volume:
    """Read a volume, and add a line to the file `log`: so threads and processes can be counted."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {region}\n")
    return read_volume(stack, region, dtype=np.dtype(dtype))


def broken_read(stack: Stack) -> Volume:
    """Fail as a truncated file does."""
    raise PixelError(f"{stack.id}: cut short")


def count_reads(log: Path) -> int:
    """Tell how often `logged_read` read."""
    return len(log.read_text().splitlines()) if log.exists() else 0


def assert_same_volume(one: Volume, other: Volume) -> None:
    """Assert that two volumes agree in every bit of their voxels, and in what goes with them."""
    assert one.voxels.dtype == other.voxels.dtype
    assert one.voxels.shape == other.voxels.shape
    assert one.voxels.tobytes() == other.voxels.tobytes()
    assert (one.unit, one.stack, one.region) == (other.unit, other.stack, other.region)
    np.testing.assert_array_equal(one.valid, other.valid)
    np.testing.assert_array_equal(one.affine_lps, other.affine_lps)


class CacheContract:
    """What every `VolumeCache` does."""

    @abstractmethod
    def make(self, folder: Path) -> VolumeCache:
        """Return an empty cache, which may use `folder`: it is not there yet."""

    @pytest.fixture
    def cache(self, tmp_path: Path) -> VolumeCache:
        """Give an empty cache."""
        return self.make(tmp_path / "cache")

    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        """Give the file in which `logged_read` counts."""
        return tmp_path / "reads"

    @pytest.fixture
    def make_stack(self, tmp_path: Path) -> Callable[..., Stack]:
        """Give a function that writes a series of a name, and plans its stack."""

        def make(name: str = "series", policy: Policy | None = None, **changes: Any) -> Stack:
            write_series(tmp_path / name, seed=name, **changes)
            return plan_stacks(scan(tmp_path / name, progress=False), policy).stacks[0]

        return make

    @pytest.mark.parametrize("slope", ["1", "0.3"])
    @pytest.mark.parametrize(
        "read",
        [
            read_volume,
            partial(read_volume, region=Region(rows=slice(1, 3), columns=slice(-4, None))),
            partial(read_volume, padding="keep"),
        ],
    )
    def test_what_was_kept_is_what_was_read(
        self,
        cache: VolumeCache,
        make_stack: Callable[..., Stack],
        slope: str,
        read: Callable[[Stack], Volume],
    ) -> None:
        """Whole numbers and others, all of a volume and a part."""
        stack = make_stack(slope=slope)

        for _ in range(3):
            assert_same_volume(cache.get(stack, read), read(stack))

    @pytest.mark.parametrize(
        ("slope", "dtype"), [("1", np.float32), ("1", np.int16), ("0.3", np.float32)]
    )
    def test_a_box_of_what_is_kept_is_what_would_be_read(
        self, cache: VolumeCache, make_stack: Callable[..., Stack], slope: str, dtype: type
    ) -> None:
        """Voxels, validity, affine: of the box; whether the volume is kept already or not."""
        stack, read = make_stack(slope=slope), partial(read_volume, dtype=dtype)

        for _ in range(2):
            for box in BOXES:
                expected = read_volume(stack, box, dtype=dtype)
                found = cache.get(stack, read, box)
                assert_same_volume(found, expected)
                assert found.voxels.flags.c_contiguous
            assert_same_volume(cache.get(stack, read), read(stack))

    def test_a_box_of_a_repaired_stack_tells_which_slices_were_measured(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """`valid` and the affine are those of the box."""
        positions = [(0.0, 0.0, z) for z in (0.0, 2.0, 6.0, 8.0)]
        stack = make_stack(positions=positions, policy=Policy.lenient())
        cache.get(stack, read_volume)

        box = Region(slices=slice(1, 4), columns=slice(2, 5))
        found = cache.get(stack, read_volume, box)

        assert found.valid.tolist() == [True, False, True]
        assert_same_volume(found, read_volume(stack, box))

    def test_a_box_is_cut_from_the_kept_volume_without_reading(
        self, cache: VolumeCache, make_stack: Callable[..., Stack], log: Path
    ) -> None:
        """All boxes have the key of the whole volume."""
        stack, read = make_stack(), partial(logged_read, log=str(log))
        cache.get(stack, read)

        for box in BOXES:
            cache.get(stack, read, box)

        assert count_reads(log) == 1

    def test_a_box_of_a_volume_that_is_not_kept_is_read_alone_and_not_kept(
        self, cache: VolumeCache, make_stack: Callable[..., Stack], log: Path
    ) -> None:
        """Reading all of a volume for a crop would cost fifty times its bytes."""
        stack, read, box = make_stack(), partial(logged_read, log=str(log)), BOXES[1]

        for _ in range(2):
            cache.get(stack, read, box)

        told = [line.partition(" ")[2] for line in log.read_text().splitlines()]
        assert told == [str(box)] * 2

    def test_writing_to_a_box_leaves_the_kept_volume_alone(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """Also a box that is the whole volume, of voxels that are kept as they are."""
        stack, read = make_stack(), partial(read_volume, dtype=np.int16)
        cache.get(stack, read)

        for box in BOXES:
            volume = cache.get(stack, read, box)
            volume.voxels[...] = 7
            volume.valid[...] = False

        assert_same_volume(cache.get(stack, read), read(stack))

    def test_a_box_of_files_that_changed_is_not_cut_from_the_kept_volume(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """As for whole volumes."""
        stack = make_stack()
        cache.get(stack, read_volume)

        for path in write_series(stack.root, seed="series", stored=ramp((5, 4, 6)), overwrite=True):
            os.utime(path, ns=(1, 1))

        with pytest.raises(StaleError):
            cache.get(stack, read_volume, BOXES[1])

    def test_a_box_that_holds_no_voxel_is_refused(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """With the reader's own error, kept or not."""
        stack = make_stack()

        for _ in range(2):
            with pytest.raises(ValueError, match="holds no voxel"):
                cache.get(stack, read_volume, Region(rows=slice(4, 9)))
            cache.get(stack, read_volume)

    def test_a_box_is_refused_where_it_would_be_guessed(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """Of a function that reads no boxes, or one box of its own."""
        stack = make_stack()

        with pytest.raises(CacheError, match="no parameter `region`"):
            cache.get(stack, broken_read, BOXES[1])
        with pytest.raises(CacheError, match="a region of its own"):
            cache.get(stack, partial(read_volume, region=BOXES[2]), BOXES[1])

    def test_int16_is_given_as_int16(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """Never as the float32 that was asked for before."""
        stack, read = make_stack(), partial(read_volume, dtype=np.int16)
        cache.get(stack, read_volume)

        for _ in range(2):
            assert_same_volume(cache.get(stack, read), read(stack))

    def test_negative_zero_and_nan_are_kept(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """Bits count, not values: -0.0 is no whole number 0."""
        stack = make_stack(
            stored=np.array([[[0, 1]], [[7, 1]]], np.uint16),
            slope="-1",
            intercept="-0.0",
            pixel_padding_value=1,
            rescale_type="US",
        )
        read = partial(read_volume, padding=float("nan"))

        for _ in range(2):
            assert_same_volume(cache.get(stack, read), read(stack))

    def test_writing_to_a_volume_leaves_the_kept_one_alone(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """Transforms may work in place, whatever type the voxels were kept in."""
        whole, fractions = make_stack("whole"), make_stack("fractions", slope="0.3")
        for stack, dtype in ((whole, np.float32), (whole, np.int16), (fractions, np.float32)):
            read = partial(read_volume, dtype=dtype)
            for _ in range(3):
                volume = cache.get(stack, read)
                volume.voxels[...] = 0
                volume.valid[...] = False

            assert_same_volume(cache.get(stack, read), read(stack))

    def test_a_file_that_changed_is_not_served_from_the_cache(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """Same path, new bytes: an error or the truth, not what was kept."""
        stack = make_stack()
        kept = cache.get(stack, read_volume)
        folder = Path(stack.root)

        new = write_series(folder, seed="series", stored=ramp((5, 4, 6)) + 5, overwrite=True)
        for path in new:
            os.utime(path, ns=(1, 1))

        with pytest.raises(StaleError):
            cache.get(stack, read_volume)
        again = plan_stacks(scan(folder, progress=False)).stacks[0]
        np.testing.assert_array_equal(cache.get(again, read_volume).voxels, kept.voxels + 5)

    def test_a_file_that_is_gone_is_missed(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """The cache is no second archive: what was deleted is deleted."""
        stack = make_stack()
        cache.get(stack, read_volume)

        os.unlink(stack.paths[2])

        with pytest.raises(OSError, match="No such file"):
            cache.get(stack, read_volume)

    def test_another_way_to_read_is_another_volume(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """Padding, region and dtype are part of the key."""
        stored = np.array([[[3, 9], [9, 9]]] * 3, np.uint16)
        stack = make_stack(stored=stored, pixel_padding_value=3)
        reads = [partial(read_volume, padding=fill) for fill in ("air", "keep", -2000.0, 5)]

        for read in reads * 2:
            assert_same_volume(cache.get(stack, read), read(stack))

    def test_a_reversed_stack_is_another_volume(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """The same files in the opposite order."""
        stack = make_stack()

        for each in (stack, stack.reversed()) * 2:
            assert_same_volume(cache.get(each, read_volume), read_volume(each))

    def test_a_function_that_cannot_be_told_by_name_is_refused(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """Two lambdas have one name."""
        stack = make_stack()

        with pytest.raises(CacheError, match="cannot be told"):
            cache.get(stack, lambda each: read_volume(each, padding=7))
        with pytest.raises(CacheError, match="by keyword"):
            cache.get(stack, partial(read_volume, stack))
        with pytest.raises(CacheError, match="kept under text"):
            cache.get(stack, partial(logged_read, log=Path("log")))

    def test_an_error_passes_through_and_nothing_is_kept(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """The error is the reader's own."""
        stack = make_stack()

        for _ in range(2):
            with pytest.raises(PixelError, match="cut short"):
                cache.get(stack, broken_read)

    def test_threads_that_want_one_volume_read_it_once(
        self, cache: VolumeCache, make_stack: Callable[..., Stack], log: Path
    ) -> None:
        """As CacheDataset's threads do."""
        stack, read = make_stack(), partial(logged_read, log=str(log))

        with ThreadPoolExecutor(8) as pool:
            volumes = list(pool.map(lambda _: cache.get(stack, read), range(16)))

        assert count_reads(log) == 1
        for volume in volumes:
            assert_same_volume(volume, read_volume(stack))

    def test_it_pickles_small_and_works(
        self, cache: VolumeCache, make_stack: Callable[..., Stack]
    ) -> None:
        """Workers get options, not volumes."""
        stack = make_stack(shape=(4, 64, 64))
        cache.get(stack, read_volume)

        pickled = pickle.dumps(cache)

        assert len(pickled) < 1000
        assert_same_volume(pickle.loads(pickled).get(stack, read_volume), read_volume(stack))  # noqa: S301
