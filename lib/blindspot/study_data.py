"""The `data` section of a study file: where pairs come from, and how many there should be."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from blindspot.data import COUNT_NAMES

ROOT = Path(__file__).resolve().parents[2]

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section of a study file: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SandboxData(Section):
    """Sizes of the made-up world that `00_build_sandbox` writes."""

    seed: Count
    train_pairs: Positive
    matched_pairs: Positive
    mismatched_pairs: Positive
    hans_per_subcase: Positive


class Release(Section):
    """A public file to fetch, and the sha256 that it must have; null is a place to pin the one that was seen."""

    url: Annotated[str, Field(pattern=r"^(https?|file)://\S+$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class Download(Section):
    """MultiNLI 1.0 as its one archive, HANS as its one text file."""

    multinli: Release
    hans: Release


class HubDataset(Section):
    """A dataset of the hub whose files are parquet, at a revision; or a folder in the hub's layout."""

    name: str
    revision: str | None = None

    @model_validator(mode="after")
    def check_revision(self) -> HubDataset:
        if not Path(ROOT, self.name).is_dir() and not self.revision:
            raise ValueError(f"the hub id {self.name!r} needs a 'revision': a commit of its repository, or a branch")
        return self


class Hub(Section):
    multinli: HubDataset
    hans: HubDataset


class Data(Section):
    """Where pairs come from: the sandbox, a folder with the public releases' own file names, their download, a hub.

    folder: the folder with the files, or where those that are fetched are kept.
    """

    source: Literal["sandbox", "folder", "download", "hub"]
    folder: str | None = None
    download: Download | None = None
    hub: Hub | None = None
    sandbox: SandboxData | None = None
    held_out_per_label: Positive
    hans_per_subcase: Positive | None = None
    test_pairs: Positive | None = None
    expected_counts: dict[str, Count] = {}

    @model_validator(mode="after")
    def check_source(self) -> Data:
        for wanted in {"download": ["folder", "download"], "hub": ["folder", "hub"]}.get(self.source, [self.source]):
            if getattr(self, wanted) is None:
                raise ValueError(f"source {self.source!r} needs the key {wanted!r}")
        return self

    @model_validator(mode="after")
    def check_counts(self) -> Data:
        for name in self.expected_counts:
            if name not in COUNT_NAMES:
                near = difflib.get_close_matches(name, COUNT_NAMES, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"expected_counts has no {name!r}; the counts are {', '.join(COUNT_NAMES)}{hint}")
        return self
