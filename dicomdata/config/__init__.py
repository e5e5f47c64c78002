"""YAML -> validated, frozen settings; nothing in a file is ever evaluated.

`files` reads a file into any model of settings; `training` is the model of a training.
"""

from __future__ import annotations

from dicomdata.config.files import Settings, load_settings

__all__ = ["Settings", "load_settings"]
