"""`StackReader` under MONAI's loading transforms, datasets and bundles."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, PersistentDataset, SmartCacheDataset
from monai.data.image_reader import ITKReader
from monai.transforms import Compose, LoadImage, LoadImaged, SaveImaged, ScaleIntensityRanged

from dicomdata.catalog import scan
from dicomdata.errors import (
    CatalogError,
    ConfigError,
    GeometryError,
    StaleError,
)
from dicomdata.metatensor import to_metatensor
from dicomdata.reader import StackReader
from dicomdata.stack import Policy, StackPlan, plan_stacks
from dicomdata.testing.phantoms import ramp, write_series
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from monai.data.meta_tensor import MetaTensor


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder of two clean series, and one with a gap."""
    root = tmp_path / "archive"
    write_series(root / "one", seed="one")
    write_series(root / "two", seed="two", stored=ramp((5, 4, 6)) + 500)
    write_series(root / "gap", seed="gap", positions=[(0, 0, z) for z in (0, 2, 4, 8, 10)])
    return root


@pytest.fixture
def catalog(archive: Path, tmp_path: Path) -> Path:
    return scan(archive, progress=False).save(tmp_path / "ct.catalog").path


@pytest.fixture
def plan(catalog: Path, archive: Path) -> StackPlan:
    return plan_stacks(scan(archive, catalog=catalog, progress=False))


def load(reader: StackReader, name: str, **options: Any) -> MetaTensor:
    image: MetaTensor = LoadImage(reader=reader, ensure_channel_first=True, **options)(name)
    return image


def load_images(keys: str | list[str], catalog: Path, **options: Any) -> LoadImaged:
    # LoadImaged's own documentation takes a reader; its annotation forgets it.
    reader: Any = StackReader(catalog)
    return LoadImaged(keys, reader=reader, **options)


# --- what it gives ------------------------------------------------------------------------------


def test_it_loads_what_read_volume_reads(catalog: Path, plan: StackPlan) -> None:
    reader = StackReader(catalog)

    for item, stack in zip(plan.items(), plan.stacks, strict=True):
        image = load(reader, str(item["image"]))

        expected = to_metatensor(read_volume(stack))
        assert torch.equal(image.as_tensor(), expected.as_tensor())
        assert torch.equal(image.affine, expected.affine)
        assert image.is_contiguous()
        assert image.meta.keys() == expected.meta.keys()


@pytest.mark.parametrize(
    "orientation",
    [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), (0.8, 0.6, 0, -0.6, 0.8, 0)],
    ids=["axial", "sagittal", "coronal", "turned"],
)
def test_a_clean_series_is_what_itk_makes_of_it(orientation: Any, tmp_path: Path) -> None:
    write_series(tmp_path, orientation=orientation)
    theirs = load_with_itk(tmp_path)

    ours = load(StackReader(None, allow_paths=True), str(tmp_path))

    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours.as_tensor(), theirs.as_tensor())
    torch.testing.assert_close(ours.affine, theirs.affine, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(ours.meta["spatial_shape"], theirs.meta["spatial_shape"])


def load_with_itk(folder: Path) -> MetaTensor:
    image: MetaTensor = LoadImage(reader=ITKReader(), ensure_channel_first=True)(str(folder))
    return image


def test_int16_arrives_as_int16_where_monai_is_told_not_to_convert(
    catalog: Path, plan: StackPlan
) -> None:
    image = load(StackReader(catalog, dtype=np.int16), plan.stacks[0].token, dtype=None)

    assert image.dtype == torch.int16


def test_several_stacks_on_one_grid_are_channels(catalog: Path, plan: StackPlan) -> None:
    one, two = plan.stacks

    image = LoadImage(reader=StackReader(catalog))([one.token, two.token])

    assert image.shape == (2, 6, 4, 5)
    assert image.meta["original_channel_dim"] == 0
    for channel, stack in enumerate((one, two)):
        expected = to_metatensor(read_volume(stack)).as_tensor()
        assert torch.equal(image[channel].as_tensor(), expected[0])


def test_stacks_on_different_grids_are_no_channels(tmp_path: Path) -> None:
    write_series(tmp_path / "archive" / "one", seed="one")
    write_series(tmp_path / "archive" / "two", seed="two", origin=(0, 0, 0))
    plan = plan_stacks(scan(tmp_path / "archive", progress=False))

    with pytest.raises(GeometryError, match="one grid"):
        LoadImage(reader=StackReader(plan.catalog))([stack.token for stack in plan.stacks])


def test_a_reversed_stack_has_a_token_too(catalog: Path, plan: StackPlan) -> None:
    stack = plan.stacks[0].reversed()

    image = load(StackReader(catalog), stack.token)

    assert torch.equal(image.as_tensor(), to_metatensor(read_volume(stack)).as_tensor())


def test_the_policy_is_the_plans(tmp_path: Path) -> None:
    stored = np.array([[[7, 9], [9, 9]]] * 3, np.uint16)
    write_series(tmp_path, stored=stored, pixel_padding_value=7)
    plan = plan_stacks(scan(tmp_path, progress=False), Policy(padding=-3000))

    image = load(StackReader(plan.catalog, plan.policy), plan.stacks[0].token)

    assert image.min() == -3000


def test_a_series_without_uid_and_patients_that_share_one_are_found(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    write_series(root / "a", seed="a", series_instance_uid="")
    write_series(root / "b", seed="b", series_instance_uid="1.2.3", patient_id="B")
    write_series(root / "c", seed="c", series_instance_uid="1.2.3", patient_id="C")
    plan = plan_stacks(scan(root, progress=False))
    assert len(plan.stacks) == 3

    for stack in plan.stacks:
        image = load(StackReader(plan.catalog), stack.token)

        assert torch.equal(image.as_tensor(), to_metatensor(read_volume(stack)).as_tensor())


# --- what it refuses ----------------------------------------------------------------------------


def test_an_error_has_its_own_type_and_text(catalog: Path, plan: StackPlan) -> None:
    path = plan.stacks[0].paths[2]
    os.truncate(path, os.stat(path).st_size - 8)

    with pytest.raises(StaleError, match=os.path.basename(path)):
        load(StackReader(catalog), plan.stacks[0].token)


def test_an_error_shows_through_a_composition_of_transforms(catalog: Path) -> None:
    item = {"image": "/nowhere/1.2.3-00000000.dcmseries"}
    transform = load_images("image", catalog)

    with pytest.raises(StaleError, match="no such stack"):
        transform(item)
    # MONAI's Compose makes every error a RuntimeError, and keeps the first as its cause.
    with pytest.raises(RuntimeError) as caught:
        Compose([transform])(item)
    assert isinstance(caught.value.__cause__, StaleError)


def test_a_rejected_series_says_why(catalog: Path, archive: Path) -> None:
    series = next(
        series for series in scan(archive, progress=False).series if series.folder == "gap"
    )

    with pytest.raises(GeometryError, match="gap"):
        load(StackReader(catalog), f"{archive}/{series.series_instance_uid}-00000000.dcmseries")


def test_a_folder_is_refused_not_left_to_another_reader(catalog: Path, archive: Path) -> None:
    with pytest.raises(ConfigError, match="expected a token"):
        load(StackReader(catalog), str(archive / "gap"))


def test_a_dicom_file_is_refused_not_left_to_another_reader(catalog: Path, plan: StackPlan) -> None:
    for reader in (StackReader(catalog), StackReader(catalog, allow_paths=True)):
        with pytest.raises(ConfigError, match="expected a"):
            load(reader, plan.stacks[0].paths[0])


def test_another_format_is_left_to_its_reader(
    catalog: Path, plan: StackPlan, tmp_path: Path
) -> None:
    label = np.zeros((6, 4, 5), np.uint8)
    nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), tmp_path / "label.nii.gz")  # type: ignore[no-untyped-call]
    item = {"image": plan.stacks[0].token, "label": str(tmp_path / "label.nii.gz")}

    sample = load_images(["image", "label"], catalog)(item)

    assert sample["image"].shape == sample["label"].shape == (6, 4, 5)


@pytest.mark.parametrize("spoil", ["second series", "damaged file", "gap"])
def test_a_folder_that_does_not_hold_one_volume_is_refused(spoil: str, tmp_path: Path) -> None:
    paths = write_series(tmp_path, seed="one")
    if spoil == "second series":
        write_series(tmp_path, seed="two")
    elif spoil == "damaged file":
        (tmp_path / "cut.dcm").write_bytes(paths[0].read_bytes()[:600])
    else:
        paths[2].unlink()

    with pytest.raises(GeometryError, match="expected one volume"):
        load(StackReader(None, allow_paths=True), str(tmp_path))


def test_without_a_catalog_there_must_be_paths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allow_paths"):
        StackReader(None)
    with pytest.raises(CatalogError, match="cannot be opened"):
        StackReader(tmp_path / "none.catalog")


def test_a_refreshed_catalog_gives_the_new_truth_or_an_error(
    catalog: Path, plan: StackPlan, archive: Path
) -> None:
    reader, stack = StackReader(catalog), plan.stacks[0]
    before = load(reader, stack.token)
    folder = Path(stack.paths[0]).parent
    write_series(folder, seed=folder.name, stored=ramp((5, 4, 6)) + 7, overwrite=True)
    for path in folder.iterdir():
        os.utime(path, ns=(1, 1))

    with pytest.raises(StaleError):
        load(reader, stack.token)
    scan(archive, catalog=catalog, progress=False)

    after = load(reader, stack.token)
    assert set(torch.unique(after - before).tolist()) in ({7.0}, {-493.0})


# --- under MONAI --------------------------------------------------------------------------------


def test_it_is_named_in_a_bundle(catalog: Path, plan: StackPlan) -> None:
    parser = ConfigParser(
        {
            "load": {
                "_target_": "LoadImaged",
                "keys": "image",
                "reader": {
                    "_target_": "dicomdata.reader.StackReader",
                    "catalog": str(catalog),
                    "policy": {"_target_": "dicomdata.stack.Policy", "tilt": "reject"},
                },
            }
        }
    )

    sample = parser.get_parsed_content("load")(plan.items()[0])

    assert sample["image"].shape == (6, 4, 5)


def test_it_is_named_in_load_image(catalog: Path, plan: StackPlan) -> None:
    transform = LoadImage(reader="dicomdata.reader.StackReader", catalog=str(catalog))

    assert transform(plan.stacks[0].token).shape == (6, 4, 5)


def test_it_pickles_and_threads_share_it(catalog: Path, plan: StackPlan) -> None:
    reader = pickle.loads(pickle.dumps(StackReader(catalog)))

    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda stack: load(reader, stack.token), plan.stacks * 8))

    for image, stack in zip(images, plan.stacks * 8, strict=True):
        assert image.meta["filename_or_obj"] == stack.token
        assert torch.equal(image.as_tensor(), to_metatensor(read_volume(stack)).as_tensor())


def transforms(catalog: Path) -> Compose:
    return Compose(
        [
            load_images("image", catalog, ensure_channel_first=True),
            ScaleIntensityRanged("image", -100, 900, 0, 1),
        ]
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda items, transform, _: CacheDataset(items, transform, num_workers=2, progress=False),
        lambda items, transform, folder: PersistentDataset(
            items, transform, cache_dir=folder, track_meta=True
        ),
        lambda items, transform, _: SmartCacheDataset(
            items, transform, replace_rate=0.5, cache_num=1, progress=False
        ),
    ],
    ids=["CacheDataset", "PersistentDataset", "SmartCacheDataset"],
)
def test_monais_datasets_take_the_items_of_a_plan(
    make: Callable[..., Any], catalog: Path, plan: StackPlan, tmp_path: Path
) -> None:
    items = plan.items()
    dataset = make(items, transforms(catalog), tmp_path / "persistent")

    for _ in range(2):
        for number in range(len(dataset)):
            sample: Any = dataset[number]
            stack = next(
                each for each in plan.stacks if each.id in sample["image"].meta["filename_or_obj"]
            )

            expected = to_metatensor(read_volume(stack))
            scaled = (expected.as_tensor() + 100) / 1000
            torch.testing.assert_close(sample["image"].as_tensor(), scaled)
            assert torch.equal(sample["image"].affine, expected.affine)
            assert sample["series_instance_uid"] == stack.series_instance_uid


def test_persistent_dataset_notices_changed_files(
    catalog: Path, plan: StackPlan, archive: Path, tmp_path: Path
) -> None:
    def epoch(plan: StackPlan) -> list[float]:
        dataset = PersistentDataset(
            plan.items(), transforms(catalog), cache_dir=tmp_path / "persistent", track_meta=True
        )
        return sorted(float(dataset[number]["image"].max()) for number in range(len(dataset)))

    before = epoch(plan)
    write_series(archive / "one", seed="one", stored=ramp((5, 4, 6)) + 9000, overwrite=True)
    again = plan_stacks(scan(archive, catalog=catalog, progress=False))

    assert epoch(again)[-1] > before[-1]


def test_saved_images_keep_the_whole_id_and_the_place(
    catalog: Path, plan: StackPlan, tmp_path: Path
) -> None:
    stack = plan.stacks[0]
    sample = load_images("image", catalog, ensure_channel_first=True)(plan.items()[0])

    SaveImaged("image", output_dir=tmp_path / "saved", separate_folder=False, print_log=False)(
        sample
    )

    (path,) = (tmp_path / "saved").iterdir()
    assert path.name == f"{stack.id}_trans.nii.gz"
    saved: Any = nibabel.load(path)
    np.testing.assert_array_equal(saved.get_fdata().transpose(2, 1, 0), read_volume(stack).voxels)
    np.testing.assert_allclose(saved.affine[:, [2, 1, 0, 3]], stack.affine_ras, rtol=0, atol=1e-4)
