"""Traps of order, spacing and direction: where the slices of one series lie (PS3.3 C.7.6.2)."""

from __future__ import annotations

from math import cos, radians, sin

import numpy as np

from dicomdata.testing.phantoms import Each
from traps.trap import AIR, ORIGIN, Trap, Truth, clean, counted, place, series, words

X, Y, Z = ORIGIN


def at(*heights: float | str) -> list[tuple[float | str, ...]]:
    """Give positions of axial slices at these heights above the first, mm."""
    return [(X, Y, Z + h) if isinstance(h, int | float) else (X, Y, h) for h in heights]


# --- order ----------------------------------------------------------------------------------------

ORDER = (
    Trap(
        name="T1",
        title="Instance Numbers 3, 1, 5, 2, 4 from the feet up",
        write=series(instance_number=Each(3, 1, 5, 2, 4)),
        truth=clean(),
    ),
    Trap(
        name="T19",
        title="no Instance Number",
        write=series(instance_number=None),
        truth=clean(),
    ),
    Trap(
        name="G2",
        title="Slice Location runs against the positions, unevenly",
        write=series(slice_location=Each(8, 7, 0, 3, 5)),
        truth=clean(),
        findings=frozenset({"slice_location"}),
    ),
    Trap(
        name="G19",
        title="feet first, and Instance Numbers from the head down: only positions count",
        write=series(instance_number=Each(5, 4, 3, 2, 1), extra={"PatientPosition": "FFS"}),
        truth=clean(),
    ),
)

# --- spacing --------------------------------------------------------------------------------------

TENTHS = [f"{round(0.625 * k, 1):.1f}" for k in range(20)]
THIRDS = [f"{4 / 3 * k:.2f}" for k in range(12)]

GAPPED = np.delete(words(6), 3, axis=0)
"""Stored values of six slices without the one numbered 3."""

FILLED = counted(6)
FILLED[3] = AIR

HELD = np.array([0, 1, 2, 3, 5, 7, 9], np.float64)
"""Heights of slices that lie on no even lattice, mm."""


def interpolated() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Give what `HELD` becomes at every mm: the mean of both neighbours where none was measured."""
    measured = counted(7)
    between = [(measured[k] + measured[k + 1]) / 2 for k in (3, 4, 5)]
    rows = [
        *measured[:4],
        between[0],
        measured[4],
        between[1],
        measured[5],
        between[2],
        measured[6],
    ]
    return np.stack(rows)


EVERY_MM = Truth(
    voxels=interpolated(),
    affine_lps=place(slices=(0, 0, 1)),
    valid=(True, True, True, True, False, True, False, True, False, True),
)

WITHOUT_THREE = at(0, 2.5, 5, 10, 12.5)

SPACING = (
    Trap(
        name="T15",
        title="Spacing Between Slices -2.5: it says nothing of where slices lie",
        write=series(spacing_between_slices="-2.5"),
        truth=clean(),
    ),
    Trap(
        name="G18",
        title="Slice Thickness 5 where slices lie 2.5 mm apart: they overlap",
        write=series(slice_thickness="5"),
        truth=clean(),
    ),
    Trap(
        name="T10",
        title="slice 3 of 6 is missing",
        write=series(stored=GAPPED, positions=WITHOUT_THREE),
        truth=(Truth(voxels=FILLED, affine_lps=place()),),
        refusal=r"\bgap\b",
    ),
    Trap(
        name="G8",
        title="slice 3 of 6 is missing, and to be filled",
        write=series(stored=GAPPED, positions=WITHOUT_THREE),
        truth=(
            Truth(
                voxels=FILLED,
                affine_lps=place(),
                valid=(True, True, True, False, True, True),
            ),
        ),
        findings=frozenset({"gap"}),
        policy={"gap": "repair"},
        asks_others=False,
    ),
    Trap(
        name="G9",
        title="slices 1 mm apart, then 2 mm",
        write=series(stored=words(7), positions=at(*HELD)),
        truth=(EVERY_MM,),
        refusal=r"variable_spacing",
    ),
    Trap(
        name="G9-repair",
        title="slices 1 mm apart, then 2 mm, to be brought to 1 mm",
        write=series(stored=words(7), positions=at(*HELD)),
        truth=(EVERY_MM,),
        findings=frozenset({"variable_spacing"}),
        policy={"variable_spacing": "repair"},
        asks_others=False,
    ),
    Trap(
        name="jit",
        title="0.625 mm apart, written with one decimal: 0.6 and 0.7 in turn",
        write=series(stored=words(20), positions=at(*TENTHS), slice_thickness="0.625"),
        # The last of twenty is a quarter of a millimetre off where 0.6 is taken for the spacing.
        truth=(
            Truth(voxels=counted(20), affine_lps=place(origin=(X, Y, 0), slices=(0, 0, 0.625))),
        ),
        tolerance_mm=0.06,
    ),
    Trap(
        name="G11",
        title="4/3 mm apart, written with two decimals",
        write=series(stored=words(12), positions=at(*THIRDS)),
        truth=(
            Truth(voxels=counted(12), affine_lps=place(origin=(X, Y, 0), slices=(0, 0, 4 / 3))),
        ),
        tolerance_mm=6e-3,
    ),
    Trap(
        name="G12",
        title="gaps grow from 2.5 to 2.69 mm: no even lattice, though neighbours agree",
        write=series(
            stored=words(40), positions=at(*(2.5 * k + 0.0025 * k * (k - 1) for k in range(40)))
        ),
        refusal=r"variable_spacing",
    ),
)

# --- directions -----------------------------------------------------------------------------------

LEAN = radians(20)
TILTED = (1, 0, 0, 0, cos(LEAN), -sin(LEAN))

DIRECTIONS = (
    Trap(
        name="T14",
        title="rows 0.8 mm apart and columns 0.5: Pixel Spacing says rows first",
        write=series(),
        truth=clean(),
    ),
    Trap(
        name="G3",
        title="oblique: a slice's step is 2.5 mm along the normal, 2.4148 along z",
        write=series(
            orientation=(0.9659258, 0, -0.2588190, 0, 1, 0),
            positions=[(10 + 2.5 * 0.2588190 * k, 20, 30 + 2.5 * 0.9659258 * k) for k in range(5)],
        ),
        truth=clean(
            affine_lps=place(
                origin=(10, 20, 30),
                slices=(0.6470475, 0, 2.4148145),
                columns=(0.4829629, 0, -0.1294095),
            )
        ),
    ),
    Trap(
        name="G4",
        title="sagittal: along the normal x falls, whatever the Instance Numbers say",
        write=series(
            orientation=(0, 1, 0, 0, 0, -1),
            positions=[(2.5 * k, -20, 30) for k in range(5)],
        ),
        truth=(
            Truth(
                voxels=counted()[::-1],
                affine_lps=place(
                    origin=(10, -20, 30),
                    slices=(-2.5, 0, 0),
                    rows=(0, 0, -0.8),
                    columns=(0, 0.5, 0),
                ),
            ),
        ),
    ),
    Trap(
        name="T3",
        title="a gantry tilted by 20 degrees: slices shift sideways, and the last is at (0, 0, 20)",
        write=series(
            orientation=TILTED,
            origin=(0, 0, 0),
            step=(0, 0, 5),
            extra={"GantryDetectorTilt": "20"},
        ),
        truth=clean(
            affine_lps=place(
                origin=(0, 0, 0),
                slices=(0, 0, 5),
                rows=(0, 0.8 * cos(LEAN), -0.8 * sin(LEAN)),
            )
        ),
        findings=frozenset({"tilt"}),
    ),
    Trap(
        name="G7",
        title="Gantry/Detector Tilt 20 where the slices lie upright",
        write=series(extra={"GantryDetectorTilt": "20"}),
        truth=clean(),
        findings=frozenset({"gantry_detector_tilt"}),
    ),
    Trap(
        name="iop",
        title="directions that differ by up to 0.0001 from slice to slice",
        write=series(orientation=Each(*[(1, e, 0, -e, 1, 0) for e in (0, 9e-5, 2e-5, 7e-5, 5e-5)])),
        truth=clean(),
    ),
    Trap(
        name="G20",
        title="directions that are off by 0.0001 to either side",
        write=series(
            orientation=Each(*[(1, e, 0, -e, 1, 0) for e in (0, 1e-4, -1e-4, 1e-4, -1e-4)])
        ),
        truth=clean(),
    ),
    Trap(
        name="G21",
        title="directions of length 1.0002 and 0.9998: they are no scale",
        write=series(orientation=(1.0002, 0, 0, 0, 0.9998, 0), step=(0, 0, 2.5)),
        truth=clean(),
    ),
    Trap(
        name="shift",
        title="the second half of the slices lies 10 mm to the side",
        write=series(
            stored=words(6), positions=[(X + 10 * (k > 2), Y, Z + 2.5 * k) for k in range(6)]
        ),
        refusal=r"\bjump\b",
    ),
    Trap(
        name="G32",
        title="an origin of (1, 2, 3), which is (-1, -2, 3) in RAS",
        write=series(origin=(1, 2, 3)),
        truth=clean(affine_lps=place(origin=(1, 2, 3))),
    ),
)

# --- what numbers are written like ----------------------------------------------------------------

WRITING = (
    Trap(
        name="G24",
        title="numbers of more than 16 characters, with spaces, with a NUL",
        write=series(
            positions=[f"-23.924833297729492\\-20\\{-30 + 2.5 * k}" for k in range(5)],
            pixel_spacing="0.8\\ .5 ",
            slope="1.0\0",
        ),
        truth=clean(affine_lps=place(origin=(-23.924833297729492, Y, Z))),
    ),
    Trap(
        name="G25",
        title="Pixel Spacing with decimal commas",
        write=series(pixel_spacing="0,8\\0,5"),
        refusal=r"PixelSpacing|Pixel Spacing",
    ),
    Trap(
        name="G26",
        title="Pixel Spacing is empty: there is no spacing",
        write=series(pixel_spacing=""),
        refusal=r"PixelSpacing|Pixel Spacing",
    ),
    Trap(
        name="G26-nan",
        title="Pixel Spacing is not a number",
        write=series(pixel_spacing="nan\\nan"),
        refusal=r"PixelSpacing|Pixel Spacing",
    ),
    Trap(
        name="G26-three",
        title="Pixel Spacing has three values, of which the first two count",
        write=series(pixel_spacing="0.8\\0.5\\0.3"),
        truth=clean(),
        findings=frozenset({"pixel_spacing"}),
    ),
    Trap(
        name="G27",
        title="radiograph with Imager Pixel Spacing alone: at the detector, and said so",
        write=series(
            stored=words(1),
            modality="DX",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
            pixel_spacing=None,
            extra={"ImagerPixelSpacing": "0.8\\0.5"},
        ),
        truth=(Truth(voxels=counted(1, start=1000), affine_lps=place(), unit="stored"),),
        findings=frozenset({"detector_spacing"}),
    ),
)

TRAPS = (*ORDER, *SPACING, *DIRECTIONS, *WRITING)
