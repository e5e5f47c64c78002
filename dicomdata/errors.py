"""Every error this package raises, and the record kept when one is collected.

Two rules hold for all of them:

* one string builds any of them, because ``DataLoader`` rebuilds a worker's
  error in the main process as ``type(error)(text)`` and turns it into a bare
  ``RuntimeError`` where that fails;
* functions that handle one thing raise, functions that handle many collect:
  `read_instance` raises, `scan` keeps its `Rejection`s in the catalog.
"""

from __future__ import annotations

from dataclasses import dataclass


class DicomDataError(Exception):
    """Base of every error raised by this package."""


class FileError(DicomDataError, OSError):
    """A file cannot be opened or read: permissions, a link out of the root, a pipe, gone."""


class HeaderError(DicomDataError, ValueError):
    """A file's header lacks an attribute that is needed, or holds a bad value."""

    def __init__(self, message: str, *, keyword: str = "") -> None:
        super().__init__(message)
        self.keyword = keyword
        """DICOM keyword of the attribute at fault; "" where none is."""


class NotDicomError(HeaderError):
    """A file is not DICOM: text, a picture, nothing at all."""


class OtherObjectError(HeaderError):
    """A DICOM object that holds no frames of a volume: a report, a structure set, a DICOMDIR."""


class GeometryError(DicomDataError, ValueError):
    """The frames of a series do not make a volume on one uniform grid."""

    def __init__(
        self,
        message: str,
        *,
        finding: str = "not_a_volume",
        amount: float | None = None,
        unit: str = "",
        where: tuple[int, ...] = (),
    ) -> None:
        super().__init__(message)
        self.finding = finding
        """The finding that stands in the way, a field of `Policy`: "gap", "jump"."""
        self.amount = amount
        """How much of it, in `unit`; None where there is no measure."""
        self.unit = unit
        """Of `amount`: "mm", "degrees", "frames"."""
        self.where = where
        """Slice numbers it concerns; empty where it concerns all."""


class RescaleError(DicomDataError, ValueError):
    """Stored values cannot become the output asked for: not whole, or too large for int16."""


class PixelError(DicomDataError, ValueError):
    """A frame's pixels are cut short, undecodable, or contradict the header."""


class LabelError(DicomDataError, ValueError):
    """A label does not belong on the grid of a stack, or cannot be told what it says."""


class SplitError(DicomDataError, ValueError):
    """Cases cannot be split as asked for, or are no longer those that were, or leak."""


class StaleError(DicomDataError):
    """A file or a catalog is no longer what it was when it was scanned."""


class CatalogError(DicomDataError, ValueError):
    """A catalog file is of another version, damaged, or has no such column."""


class CacheError(DicomDataError, ValueError):
    """A cache was set up with something impossible."""


class ConfigError(DicomDataError, ValueError):
    """A setting asks for something that does not exist."""


class DicomDataWarning(UserWarning):
    """Something was left out or slowed down; the text says what and where to look."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """One thing that a function over many left out, and why."""

    subject: str
    """A path, or the id of a series: what was left out."""

    error: DicomDataError
    """What the function over one raised for it; its text names the subject."""

    def __str__(self) -> str:
        return str(self.error)
