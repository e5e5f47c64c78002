"""Traps of single values: bits, padding, rescale, Modality LUT, PET.

PS3.3 C.7.6.3 (bits), C.7.5.1.1.2 (padding), C.11.1 (Modality LUT), C.8.9 (PET).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filereader import dcmread

from dicomdata.testing.phantoms import Each, write_series
from traps.trap import AIR, Trap, clean, flat, is_volume, series, striped

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# --- padding --------------------------------------------------------------------------------------

PADDED = np.array([0xF830, 0x0000, 0x0400], np.uint16).view(np.int16)
"""-2000, which is padding, then 0 and 1024."""

PADDING = (
    Trap(
        name="P1",
        title="Pixel Padding Value 63536 as US where the pixels are signed: it is -2000",
        write=series(
            stored=striped(PADDED, np.int16), pixel_padding_value=63536, pixel_padding_vr="US"
        ),
        truth=is_volume(striped([AIR, -1024, 0]), also=(striped([np.nan, -1024, 0]),)),
        findings=frozenset({"padding_present"}),
    ),
    Trap(
        name="P2",
        title="Pixel Padding Range Limit: all from -2000 to -1500 is padding, -1499 is not",
        write=series(
            stored=striped([-2000, -1600, -1500, -1499, 0, 1024], np.int16),
            pixel_padding_value=-2000,
            pixel_padding_range_limit=-1500,
        ),
        truth=is_volume(
            striped([AIR, AIR, AIR, -2523, -1024, 0]),
            also=(striped([np.nan, np.nan, np.nan, -2523, -1024, 0]),),
        ),
        findings=frozenset({"padding_present"}),
    ),
    Trap(
        name="P3",
        title="padding is a stored value: -2000 is padding, and -2000 after the rescale is not",
        # 976 - 2976 is -2000 HU, which is not padding; -2000 - 2976 is.
        write=series(
            stored=striped([-2000, 976, 3000], np.int16),
            intercept=-2976,
            pixel_padding_value=-2000,
        ),
        truth=is_volume(striped([AIR, -2000, 24]), also=(striped([np.nan, -2000, 24]),)),
        findings=frozenset({"padding_present"}),
    ),
    Trap(
        name="P4",
        title="Pixel Padding Value 0 in MR, where 0 is also inside the head",
        write=series(
            modality="MR", stored=striped([0, 5, 0, 7, -3, 9], np.int16), pixel_padding_value=0
        ),
        truth=is_volume(striped([0, 5, 0, 7, -3, 9]), "stored"),
        findings=frozenset({"padding_collides"}),
    ),
)

# --- rescale --------------------------------------------------------------------------------------

RESCALE = (
    Trap(
        name="R1",
        title="Rescale Slope 0.5 after a slice where it is 1: 9 is 4.5",
        write=series(
            modality="PT",
            stored=flat(9, 9, 9, 9, 9, dtype=np.uint16),
            slope=Each("1", "0.5", "0.5", "0.5", "0.5"),
            intercept="0",
            extra={"Units": "BQML"},
        ),
        truth=is_volume(flat(9, 4.5, 4.5, 4.5, 4.5), "BQML"),
    ),
    Trap(
        name="T2",
        title="PET: each slice has a Rescale Slope of its own",
        write=series(
            modality="PT",
            stored=flat(10, 9, 9, 9, 10, dtype=np.uint16),
            slope=Each("1", "0.5", "0.25", "0.5", "1"),
            intercept="0",
            extra={"Units": "BQML"},
        ),
        truth=is_volume(flat(10, 4.5, 2.25, 4.5, 10), "BQML"),
    ),
    Trap(
        name="R3",
        title="Rescale Slope 7.56104e-09, as PET may have",
        write=series(
            modality="PT",
            stored=flat(32767, 32767, 1, 0, 32767, dtype=np.uint16),
            slope="7.56104e-09",
            intercept="0",
            extra={"Units": "BQML"},
        ),
        truth=is_volume(flat(*(7.56104e-09 * np.array([32767, 32767, 1, 0, 32767]))), "BQML"),
    ),
    Trap(
        name="R4",
        title="Rescale Intercept -1024.5: a stored 100 is -924.5",
        write=series(stored=flat(100, 101, 102, 103, 104, dtype=np.uint16), intercept="-1024.5"),
        truth=is_volume(flat(-924.5, -923.5, -922.5, -921.5, -920.5)),
    ),
    Trap(
        name="R5",
        title="CT without Rescale Slope and Intercept: not HU",
        write=series(stored=flat(*[100] * 5, dtype=np.uint16), slope=None, intercept=None),
        truth=is_volume(flat(*[100] * 5), "stored"),
        findings=frozenset({"rescale_missing"}),
    ),
    Trap(
        name="R6",
        title="CT whose Rescale Slope is empty: not HU",
        write=series(stored=flat(*[100] * 5, dtype=np.uint16), slope="", intercept=""),
        truth=is_volume(flat(*[100] * 5), "stored"),
        findings=frozenset({"rescale_missing"}),
    ),
    Trap(
        name="R7",
        title="Rescale Slope 1\\2: two values where one belongs",
        write=series(stored=flat(*[100] * 5, dtype=np.uint16), slope="1\\2"),
        refusal=r"RescaleSlope|Rescale Slope",
    ),
    Trap(
        name="R8",
        title="CT whose Rescale Type is Z_EFF: values as they are, and not HU",
        write=series(
            stored=flat(*[100] * 5, dtype=np.uint16),
            slope="0.25",
            intercept="0",
            rescale_type="Z_EFF",
        ),
        truth=is_volume(flat(*[25] * 5), "Z_EFF"),
    ),
    Trap(
        name="R9",
        title="65535 with an intercept of -1024 is 64511, which 16 bits do not hold",
        write=series(stored=flat(65535, 1024, 0, 1024, 65535, dtype=np.uint16)),
        truth=is_volume(flat(64511, 0, -1024, 0, 64511)),
    ),
    Trap(
        name="dt",
        title="HU below 0 after a slice that has none",
        write=series(stored=flat(1500, 24, 1024, 24, 1500, dtype=np.uint16)),
        truth=is_volume(flat(476, -1000, 0, -1000, 476)),
    ),
    Trap(
        name="R21",
        title="Rescale Slope 1.00000001, which float32 does not hold",
        write=series(stored=flat(*[65535] * 5, dtype=np.uint16), slope="1.00000001"),
        truth=is_volume(flat(*[64511.0] * 5)),
    ),
    Trap(
        name="R24",
        title="Window Center 50\\400: several windows change no voxel",
        write=series(extra={"WindowCenter": "50\\400", "WindowWidth": "100\\2000"}),
        truth=clean(),
    ),
)

# --- bits -----------------------------------------------------------------------------------------


def write_overlay(folder: Path) -> None:
    """Write 1000 with an overlay in bit 12, where the standard once put them (PS3.5 8.1.2)."""
    overlay = {
        0x60000010: 4,
        0x60000011: 6,
        0x60000040: "G",
        0x60000050: [1, 1],
        0x60000100: 16,
        0x60000102: 12,
    }
    write_series(folder, stored=flat(*[0x13E8] * 5, dtype=np.uint16), bits_stored=12, extra=overlay)


def lossless_jpeg(differences: list[int], rows: int, columns: int) -> bytes:
    """Encode differences, 8 bits, predictor 1, as they are (ISO 10918-1 H.1.2.2).

    No encoder writes a difference of -180 between bytes: it is 76 as well, modulo 256.
    """
    bits = ""
    for difference in differences:
        category = abs(difference).bit_length()
        below = difference if difference > 0 else difference + 2**category - 1
        # Seventeen codes of five bits, which are the categories themselves.
        bits += f"{category:05b}" + (f"{below:0{category}b}" if category else "")
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    size = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    lengths = bytes([0, 0, 0, 0, 17, *[0] * 11])
    return b"".join([
        b"\xff\xd8",
        b"\xff\xc3\x00\x0b\x08" + size + b"\x01\x01\x11\x00",
        b"\xff\xc4" + (19 + 17).to_bytes(2, "big") + b"\x00" + lengths + bytes(range(17)),
        b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00",
        scan,
        b"\xff\xd9",
    ])  # fmt: skip


def write_wrapping_jpeg(folder: Path) -> None:
    """Write a slice whose first pixels are 52 and, after a difference of -180, 128."""
    paths = write_series(
        folder,
        stored=flat(*[52] * 5, dtype=np.uint8),
        modality="MR",
        transfer_syntax_uid=uid.JPEGLosslessSV1,
    )
    # The predictor of the first pixel is 128; of the first of a row, the pixel above it.
    row = [0, -180, 0, 0, 0, 0]
    first = [52 - 128, -180, 0, 0, 0, 0]
    content = lossless_jpeg([*first, *row * 3], 4, 6)
    for path in paths:
        header = dcmread(path)
        header.PixelData = encapsulate([content])
        header.save_as(path)


BITS = (
    Trap(
        name="T17",
        title="12 bits stored of 16, and garbage in the other four: 0xF3E8 is 1000",
        write=series(stored=flat(*[0xF3E8] * 5, dtype=np.uint16), bits_stored=12),
        truth=is_volume(flat(*[1000 - 1024] * 5)),
    ),
    Trap(
        name="R12",
        title="12 bits, signed, of 16: the sign is bit 11",
        write=series(
            stored=striped([0x0FFF, 0x0800, 0x07FF, 0xF001], np.uint16),
            bits_stored=12,
            signed=True,
            intercept="0",
        ),
        truth=is_volume(striped([-1, -2048, 2047, 1])),
    ),
    Trap(
        name="R13",
        title="12 bits stored at the upper end of 16: High Bit 15, 0x3E80 is 1000",
        write=series(
            stored=flat(*[0x3E80] * 5, dtype=np.uint16), bits_stored=12, high_bit=15, intercept="0"
        ),
        truth=is_volume(flat(*[1000] * 5)),
    ),
    Trap(
        name="R14",
        title="an overlay in bit 12 of the pixels: 0x13E8 is 1000",
        write=write_overlay,
        truth=is_volume(flat(*[1000 - 1024] * 5)),
    ),
    Trap(
        name="R19",
        title="lossless JPEG whose difference wraps around: 52 - 180 is 128",
        write=write_wrapping_jpeg,
        truth=is_volume(striped([52, 128, 128, 128, 128, 128]), "stored"),
    ),
    Trap(
        name="R20",
        title="signed pixels in a JPEG 2000 codestream that says unsigned: 64536 is -1000",
        write=series(
            stored=flat(*[64536] * 5, dtype=np.uint16),
            signed=True,
            intercept="0",
            transfer_syntax_uid=uid.JPEG2000Lossless,
        ),
        truth=is_volume(flat(*[-1000] * 5)),
    ),
)

# --- what values mean -----------------------------------------------------------------------------


def modality_lut(table: NDArray[np.uint16], bits: int) -> dict[str, Any]:
    """Give a Modality LUT Sequence with one table, which starts at 0 (PS3.3 C.11.1.1)."""
    item = Dataset()
    item.add_new(0x00283002, "US", [len(table), 0, bits])
    item.ModalityLUTType = "US"
    item.add_new(0x00283006, "OW", table.astype("<u2").tobytes())
    return {"ModalityLUTSequence": [item]}


TRIPLED = (np.arange(4096) * 3 % 4096).astype(np.uint16)
"""A table that no straight line imitates, whose entries fit in 12 bits."""

MEANING = (
    Trap(
        name="T22",
        title="MONOCHROME1: meant to be shown inverted; a stored 100 is 100",
        write=series(
            stored=flat(*[100] * 5, dtype=np.uint16),
            bits_stored=12,
            photometric_interpretation="MONOCHROME1",
            intercept="0",
        ),
        # Some readers show what they give as the standard says to display it.
        truth=is_volume(flat(*[100] * 5), also=(flat(*[4095 - 100] * 5),)),
        findings=frozenset({"monochrome1"}),
    ),
    Trap(
        name="R16",
        title="a Modality LUT Sequence of 4096 entries of 12 bits in place of a slope",
        write=series(
            stored=flat(100, 2000, 0, 4095, 100, dtype=np.uint16),
            bits_stored=12,
            slope=None,
            intercept=None,
            extra=modality_lut(TRIPLED, 12),
        ),
        truth=is_volume(flat(300, 6000 - 4096, 0, 12285 - 2 * 4096, 300), "US"),
        findings=frozenset({"modality_lut_bits"}),
    ),
    Trap(
        name="R17",
        title="a Modality LUT in X-ray angiography, which undoes a display and is not applied",
        write=series(
            modality="XA",
            sop_class_uid=uid.XRayAngiographicImageStorage,
            stored=flat(100, 2000, 0, 4095, 100, dtype=np.uint16),
            bits_stored=12,
            extra={
                **modality_lut(TRIPLED, 12),
                "PixelIntensityRelationship": "LOG",
                "ImagerPixelSpacing": "0.8\\0.5",
            },
        ),
        truth=is_volume(flat(100, 2000, 0, 4095, 100), "stored"),
        findings=frozenset({"modality_lut_ignored"}),
    ),
)

# --- PET ------------------------------------------------------------------------------------------


def tracer(**changes: Any) -> dict[str, Any]:
    """Give a PET header: 370 MBq of fluorine-18 at 10:00, scanned at 11:00, 70 kg."""
    injected = Dataset()
    injected.RadionuclideTotalDose = changes.pop("dose", "370000000")
    if half_life := changes.pop("half_life", "6586.2"):
        injected.RadionuclideHalfLife = half_life
    injected.RadiopharmaceuticalStartTime = changes.pop("start", "100000")
    if moment := changes.pop("moment", ""):
        injected.RadiopharmaceuticalStartDateTime = moment
    header = {
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["ATTN", "DECY"],
        "PatientWeight": "70",
        "PatientSize": "1.75",
        "PatientSex": "M",
        "SeriesDate": "20260102",
        "AcquisitionDate": "20260102",
        "SeriesTime": "110000",
        "AcquisitionTime": "110000",
        "RadiopharmaceuticalInformationSequence": [injected],
    }
    return {key: value for key, value in {**header, **changes}.items() if value is not None}


write_pet = partial(
    series, modality="PT", stored=flat(*[10_000] * 5, dtype=np.uint16), slope="1", intercept="0"
)

AT_START = 10_000 * 70_000 / (370e6 * 2 ** (-3600 / 6586.2))
"""g/ml where the values are corrected to the start of the scan, an hour after injection: 2.7634."""

AT_INJECTION = 10_000 * 70_000 / 370e6
"""The same where they are corrected to the time of injection: 1.8919."""

PET = tuple(
    Trap(
        name=f"R{name}",
        title=title,
        write=write_pet(extra=tracer(**header)),
        truth=is_volume(flat(*[value] * 5), "SUVbw") if value else (),
        refusal=refusal,
        policy={"pet_unit": "SUVbw"},
        asks_others=False,
    )
    for name, title, header, value, refusal in (
        ("22", "SUV by body weight, decay corrected to the start of the scan", {}, AT_START, ""),
        (
            "22-admin",
            "SUV by body weight, decay corrected to the time of injection",
            {"DecayCorrection": "ADMIN"},
            AT_INJECTION,
            "",
        ),
        (
            "22-midnight",
            "SUV where midnight lies between injection and scan, with dates",
            {
                "start": "233000",
                "moment": "20260101233000",
                "SeriesTime": "003000",
                "AcquisitionTime": "003000",
            },
            AT_START,
            "",
        ),
        (
            "22-no-date",
            "SUV where midnight lies between injection and scan, without the date of injection",
            {"start": "233000", "SeriesTime": "003000", "AcquisitionTime": "003000"},
            AT_START,
            "(?i)injec|start",
        ),
        (
            "23",
            "SUV without Patient's Weight",
            {"PatientWeight": None},
            0,
            "(?i)patient.?s? ?weight",
        ),
        (
            "23-zero",
            "SUV with a Patient's Weight of 0",
            {"PatientWeight": "0"},
            0,
            "(?i)patient.?s? ?weight",
        ),
        (
            "23-counts",
            "SUV of counts, without the factor that one maker has for them",
            {"Units": "CNTS"},
            0,
            "CNTS",
        ),
        (
            "23-half-life",
            "SUV without Radionuclide Half Life: none is assumed",
            {"half_life": ""},
            0,
            "(?i)half.?life",
        ),
    )
)

TRAPS = (*PADDING, *RESCALE, *BITS, *MEANING, *PET)
