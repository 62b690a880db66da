"""The published sizes, from models/suite.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

from host import ROOT


@dataclass(frozen=True)
class Size:
    """One line of the published table; heads are 64 wide, the vocabulary has 50,368 entries."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    parameters: int
    """Of the trunk."""


SIZES = {name: Size(**size) for name, size in tomllib.loads((ROOT / "models" / "suite.toml").read_text())["sizes"].items()}
