"""Other readers of a folder of slices, each as its documentation says, or quicker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measuring import Run
    from benchmarks.setup import Setup


def dicomsdl_by_hand(folder: Path) -> Run:
    """Copy words out of each file into one buffer, and convert them from there."""
    import dicomsdl

    def run() -> Any:
        opened = [dicomsdl.open(str(path)) for path in folder.iterdir()]
        opened.sort(key=lambda header: header.ImagePositionPatient[2])
        info = opened[0].getPixelDataInfo()
        words = np.empty((info["Rows"], info["Cols"]), info["dtype"])
        voxels = np.empty((len(opened), *words.shape), np.float32)
        slope, intercept = np.float32(opened[0].RescaleSlope), opened[0].RescaleIntercept
        for header, plane in zip(opened, voxels, strict=True):
            header.copyFrameData(0, words)
            np.multiply(words, slope, out=plane)
            np.add(plane, intercept, out=plane)
        return voxels

    return run


def simpleitk(folder: Path) -> Run:
    """Read a series whose files are known and in order."""
    import SimpleITK as sitk  # noqa: N813 - its own spelling

    names = [str(path) for path in sorted(folder.iterdir())]
    return lambda: sitk.GetArrayFromImage(sitk.ReadImage(names, sitk.sitkFloat32))


def pydicom_recipe(folder: Path, **options: Any) -> Run:
    """Stack the pixels in the order of z, as tutorials do; options go to the decoding."""
    import pydicom
    from pydicom.pixels.utils import pixel_array

    def run() -> Any:
        slices = [pydicom.dcmread(path) for path in folder.iterdir()]
        slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
        stored = np.stack([pixel_array(one, **options) for one in slices]).astype(np.float32)
        stored *= float(slices[0].RescaleSlope)
        stored += float(slices[0].RescaleIntercept)
        return stored

    return run


def monai_itk(folder: Path) -> Run:
    """Load a folder as MONAI does, with the reader it takes for DICOM."""
    from monai.transforms import LoadImage

    load = LoadImage(reader="ITKReader", image_only=True)
    return lambda: load(str(folder))


def monai_items(setup: Setup) -> list[dict[str, str]]:
    """List all volumes, as MONAI's datasets take them."""
    return [{"image": str(setup.patient(number))} for number in range(setup.patients)]


def monai_load() -> list[Any]:
    """Give the transforms that load a volume of such a list."""
    from monai.transforms import EnsureChannelFirstd, LoadImaged

    return [LoadImaged("image", reader="ITKReader"), EnsureChannelFirstd("image")]
