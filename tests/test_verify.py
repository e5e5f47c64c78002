"""Decoders held against each other: `compare_decoders`, and `dicomdata verify --pixels`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.encaps import generate_frames
from typer.testing import CliRunner

import dicomdata as dd
from dicomdata.cli import app
from dicomdata.pixels import Comparison, compare_decoders
from dicomdata.testing.encoding import write_fragments
from dicomdata.testing.phantoms import Each, write_series
from dicomdata.testing.strategies import LOSSLESS, NATIVE

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

LOSSY = (uid.JPEGBaseline8Bit, uid.JPEGLSNearLossless, uid.JPEG2000, uid.HTJ2K)


def write_frame(folder: Path, syntax: str, **changes: Any) -> Path:
    """Write one smooth picture, which lossy codecs change a little."""
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    rows, columns = np.mgrid[:32, :24]
    picture = (np.sin(np.hypot(rows - 9, columns - 4) / 3) / 2 + 0.5) * (2**bits - 1)
    words = picture.astype("u1" if bits == 8 else "u2")
    options = {"bits_stored": bits, "transfer_syntax_uid": syntax, **changes}
    return write_series(folder, stored=words[None], **options)[0]


def compare(path: Path) -> Comparison:
    (frame,) = dd.read_instance(path).frames
    return compare_decoders(frame)


def verify(folder: Path, *options: str) -> Result:
    """Scan a folder, and verify the catalog."""
    catalog = folder.parent / "a.catalog"
    dd.scan(folder, catalog=catalog, progress=False)
    return CliRunner().invoke(app, ["verify", str(catalog), *options])


# --- one frame ------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS, uid.JPEGLSNearLossless])
def test_decoders_agree_to_the_bit_where_decoding_is_exact(syntax: str, tmp_path: Path) -> None:
    compared = compare(write_frame(tmp_path, syntax))

    assert compared.agree
    assert len(compared.decoders) >= 2
    assert (compared.difference, compared.allowed) == (0, 0)
    assert str(compared).startswith("agree: ")


@pytest.mark.parametrize("syntax", LOSSY)
def test_decoders_of_lossy_images_may_round_differently(syntax: str, tmp_path: Path) -> None:
    compared = compare(write_frame(tmp_path, syntax))

    assert compared.agree
    assert len(compared.decoders) >= 2
    assert compared.difference <= compared.allowed <= 2


def test_a_single_decoder_is_said_to_be_one(tmp_path: Path) -> None:
    compared = compare(write_frame(tmp_path, uid.JPEGExtended12Bit))

    assert compared.agree
    assert str(compared) == "only one decoder: imagecodecs with libjpeg-turbo"
    assert list(compared.unable) == ["pydicom with pillow"]


def test_decoders_that_disagree_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_frame(tmp_path, uid.JPEG2000Lossless)
    decode = imagecodecs.jpeg2k_decode
    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", lambda encoded: decode(encoded) ^ 4)

    compared = compare(path)

    assert not compared.agree
    assert str(compared).startswith("disagree by 4: imagecodecs with OpenJPEG, pydicom with")


def test_a_frame_that_nobody_decodes_is_an_error(tmp_path: Path) -> None:
    path = write_frame(tmp_path, uid.JPEGLSLossless)
    (frame,) = generate_frames(dcmread(path).PixelData, number_of_frames=1)
    at = len(frame) // 2
    write_fragments(path, [frame[:at] + frame[at + 20 :]], uid.JPEGLSLossless)

    with pytest.raises(dd.PixelError, match=str(path)):
        compare(path)


# --- a catalog ------------------------------------------------------------------------------------


def test_verify_takes_frames_of_each_transfer_syntax_and_manufacturer(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    for seed, syntax in enumerate((uid.ExplicitVRLittleEndian, uid.RLELossless)):
        write_series(
            folder / str(seed),
            shape=(7, 16, 16),
            transfer_syntax_uid=syntax,
            extra={"Manufacturer": Each("A", "A", "A", "A", "A", "B", "B")},
            seed=str(seed),
        )

    result = verify(folder, "--pixels", "3")

    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()[2:]]
    assert len(lines) == 4
    assert {line[0] for line in lines} == {uid.ExplicitVRLittleEndian, uid.RLELossless}
    assert sorted(" ".join(line).partition(") ")[2].split()[:3] for line in lines) == [
        ["A", "3", "agree"],
        ["A", "3", "agree"],
        ["B", "2", "agree"],
        ["B", "2", "agree"],
    ]
    assert verify(folder, "--pixels", "3").stdout == result.stdout


def test_verify_without_pixels_opens_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    (path,) = write_series(folder, shape=(1, 4, 4))
    catalog = tmp_path / "a.catalog"
    dd.scan(folder, catalog=catalog, progress=False)
    path.unlink()

    plain = CliRunner().invoke(app, ["verify", str(catalog)])
    pixels = CliRunner().invoke(app, ["verify", str(catalog), "--pixels", "1"])

    assert (plain.exit_code, plain.stderr) == (0, "")
    assert pixels.exit_code == 1
    assert path.name in pixels.stderr


def test_verify_names_the_frames_that_cannot_be_decoded(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    good, bad = write_series(folder, shape=(2, 16, 16), transfer_syntax_uid=uid.RLELossless)
    (frame,) = generate_frames(dcmread(bad).PixelData, number_of_frames=1)
    write_fragments(bad, [frame[: len(frame) // 2]], uid.RLELossless)

    result = verify(folder, "--pixels", "5")

    assert result.exit_code == 1
    assert "1 cannot be decoded" in result.stdout
    assert str(bad) in result.stderr
    assert str(good) not in result.stderr


def test_verify_says_where_only_one_decoder_is_installed(tmp_path: Path) -> None:
    write_frame(tmp_path / "files", uid.JPEGExtended12Bit)

    result = verify(tmp_path / "files", "--pixels", "1")

    assert result.exit_code == 0
    assert "only one decoder installed" in result.stdout


def test_verify_leaves_colour_out_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    write_series(
        folder, stored=np.zeros((2, 4, 4, 3), "u1"), photometric_interpretation="RGB", bits_stored=8
    )
    write_series(folder / "grey", seed="grey")

    result = verify(folder, "--pixels", "2")

    assert result.exit_code == 0
    assert "2 frames of colour" in result.stderr


@pytest.mark.parametrize("wanted", ["0", "-1", "many"])
def test_a_number_of_frames_that_is_none_is_refused(wanted: str, tmp_path: Path) -> None:
    write_frame(tmp_path / "files", uid.RLELossless)

    assert verify(tmp_path / "files", "--pixels", wanted).exit_code == 2


def test_frames_are_spread_over_the_whole_catalog(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    paths = write_series(folder, shape=(10, 4, 4), file_names=lambda k: f"{k:02}.dcm")
    catalog = tmp_path / "a.catalog"
    dd.scan(folder, catalog=catalog, progress=False)
    for path in paths:
        path.unlink()

    result = CliRunner().invoke(app, ["verify", str(catalog), "--pixels", "4"])

    tried = [name for name in (path.name for path in paths) if name in result.stderr]
    assert len(tried) == 4
    assert tried[0] == "00.dcm"
    assert tried[-1] >= "07.dcm"
