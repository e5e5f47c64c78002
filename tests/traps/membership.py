"""Traps of which slices belong together: several volumes, odd slices, damaged files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from dicomdata.testing.phantoms import Each, phantom_uid
from traps.trap import ORIGIN, Trap, Truth, clean, counted, place, series, several, words

if TYPE_CHECKING:
    from pathlib import Path

X, Y, Z = ORIGIN


def both(start: int = 1000) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    """Give stored values of two volumes of five slices, the second 1000 above the first."""
    return np.concatenate([words(start=start), words(start=start + 1000)])


# --- several volumes ------------------------------------------------------------------------------

HIGH = (X, Y, Z + 8.75)

SEVERAL = (
    Trap(
        name="T11",
        title="two series, of three and of five slices, in one folder",
        write=several(
            series(stored=words(3, start=3000), seed="three"), series(stored=words(5), seed="five")
        ),
        truth=(
            Truth(voxels=counted(3, start=1976), affine_lps=place()),
            *clean(),
        ),
    ),
    Trap(
        name="ph",
        title="two phases at the same five positions, told apart by Acquisition Number",
        write=series(
            stored=both(),
            positions=[(X, Y, Z + 2.5 * (k % 5)) for k in range(10)],
            extra={"AcquisitionNumber": Each(*[1] * 5, *[2] * 5)},
        ),
        truth=(*clean(), Truth(voxels=counted(start=976), affine_lps=place())),
    ),
    Trap(
        name="pass",
        title="two passes whose slices lie between each other's, told apart by Acquisition Number",
        write=series(
            stored=both(),
            positions=[(X, Y, Z + 2.5 * (k % 5) + 8.75 * (k > 4)) for k in range(10)],
            extra={"AcquisitionNumber": Each(*[1] * 5, *[2] * 5)},
        ),
        truth=(*clean(), Truth(voxels=counted(start=976), affine_lps=place(origin=HIGH))),
    ),
    Trap(
        name="forx",
        title="two Frames of Reference in one series: places that cannot be compared",
        write=series(
            stored=words(6),
            frame_of_reference_uid=Each(*[phantom_uid("one")] * 3, *[phantom_uid("other")] * 3),
        ),
        truth=(
            Truth(voxels=counted(6)[:3], affine_lps=place()),
            Truth(voxels=counted(6)[3:], affine_lps=place(origin=(X, Y, Z + 7.5))),
        ),
        refusal=r"(?i)frame.of.reference",
    ),
)

# --- one volume, whatever its elements say --------------------------------------------------------

ONE = (
    Trap(
        name="acquisitions",
        title="every slice has an Acquisition Number and a Content Time of its own: one volume",
        write=series(
            extra={
                "AcquisitionNumber": Each(1, 2, 3, 4, 5),
                "ContentTime": Each("101", "102", "103", "104", "105"),
            }
        ),
        truth=clean(),
    ),
    Trap(
        name="frames",
        title="every slice has a Frame of Reference UID of its own: one volume, and said so",
        write=series(frame_of_reference_uid=Each(*[phantom_uid("frame", k) for k in range(5)])),
        truth=clean(),
        findings=frozenset({"frame_of_reference_scattered"}),
    ),
    Trap(
        name="instances",
        title="every slice has the same SOP Instance UID: none is another's duplicate",
        write=series(sop_instance_uid=phantom_uid("all")),
        truth=clean(),
    ),
    Trap(
        name="patients",
        title="two patients share a Series Instance UID",
        write=several(
            series(patient_id="one"),
            series(
                stored=words(start=2000),
                patient_id="other",
                sop_instance_uid=lambda k: phantom_uid("other", k),
                file_names=lambda k: f"other{k}.dcm",
            ),
        ),
        truth=(*clean(), Truth(voxels=counted(start=976), affine_lps=place())),
    ),
)

# --- odd slices -----------------------------------------------------------------------------------

LOCALIZER = Truth(
    voxels=counted(1, start=1976),
    affine_lps=place(origin=(X, Y + 5, Z + 7), slices=(0, 2.5, 0), rows=(0, 0, -0.8)),
)


def taller() -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint16]]]:
    """Give stored values of six slices, of which number 3 has eight rows."""
    planes = [np.array(plane) for plane in words(6)]
    planes[3] = np.full((8, 6), 1005, np.uint16)
    return planes


ODD = (
    Trap(
        name="T18",
        title="a localizer of another orientation in the series",
        write=several(
            series(),
            series(
                stored=words(1, start=3000),
                orientation=(1, 0, 0, 0, 0, -1),
                positions=[(X, Y + 5, Z + 7)],
                instance_number=6,
                file_names=["localizer.dcm"],
                sop_instance_uid=phantom_uid("localizer"),
            ),
        ),
        truth=clean(),
        aside=(LOCALIZER,),
        findings=frozenset({"localizer"}),
    ),
    Trap(
        name="T4",
        title="one slice twice, under another SOP Instance UID",
        write=several(
            series(file_names=["103", "101", "104", "100", "102"]),
            series(
                stored=words()[2:3],
                positions=[(X, Y, Z + 5)],
                instance_number=6,
                file_names=["102b"],
                sop_instance_uid=phantom_uid("again"),
            ),
        ),
        truth=clean(),
        findings=frozenset({"duplicate"}),
    ),
    Trap(
        name="shape",
        title="one slice of eight rows among those of four",
        write=series(stored=taller()),
        refusal=r"matrix|\bgap\b",
    ),
    Trap(
        name="frac",
        title="one slice has another Pixel Spacing",
        write=series(
            stored=words(6), pixel_spacing=Each(*[(0.8, 0.5)] * 3, (0.9, 0.6), *[(0.8, 0.5)] * 2)
        ),
        refusal=r"Pixel Spacing|\bgap\b",
    ),
    Trap(
        name="one",
        title="a single slice",
        write=series(stored=words(1)),
        truth=clean(1),
        findings=frozenset({"single_slice"}),
    ),
    Trap(
        name="two",
        title="two slices",
        write=series(stored=words(2)),
        truth=clean(2),
    ),
)

# --- damage ---------------------------------------------------------------------------------------


def cut_one(folder: Path) -> None:
    """Cut the last 20 bytes off the file of slice 3."""
    os.truncate(folder / "3.dcm", (folder / "3.dcm").stat().st_size - 20)


def replace_all(folder: Path) -> None:
    """Write other pixels under the names that were scanned."""
    series(stored=words(start=1800), file_names=NAMED[:5], overwrite=True)(folder)
    for number, name in enumerate(NAMED[:5]):
        # Newer than any clock's tick could hide.
        os.utime(folder / name, ns=(2_000_000_000_000_000_000 + number,) * 2)


NAMED = [f"{k}.dcm" for k in range(6)]

DAMAGE = (
    Trap(
        name="trunc",
        title="the file of one slice is cut short by 20 bytes",
        write=several(series(stored=words(6), file_names=NAMED), cut_one),
        refusal=r"3\.dcm",
    ),
    Trap(
        name="CACHE",
        title="files are replaced after they were scanned: the new truth or an error",
        write=series(file_names=NAMED[:5]),
        meanwhile=replace_all,
        truth=(Truth(voxels=counted(start=776), affine_lps=place()),),
        refusal=r"StaleError",
        asks_others=False,
    ),
)

TRAPS = (*SEVERAL, *ONE, *ODD, *DAMAGE)
