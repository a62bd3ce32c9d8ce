"""Acquisition: the public files that a study reads, wherever they come from, as a folder with the releases' own names.

A folder is taken as it is. A download fetches MultiNLI's archive and HANS's file with their checksums, once; what lies
in the folder already, put there by hand or by an earlier run, is not fetched again. A dataset of a model hub is read
from its parquet files and written down in the releases' form. So every later stage knows one form of data.

Checksums: the sha256 values in the study files are those that the `datasets` library recorded of the two releases.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from blindspot.data import HANS_FILES, MULTINLI_FILES
from blindspot.readers import HANS_LABELS, LABELS, NO_GOLD_LABEL
from blindspot.study_data import ROOT, Data, HubDataset, Release

ARCHIVE = "multinli_1.0.zip"
TIMEOUT_SECONDS = 15
CHUNK_BYTES = 1 << 20
HUB_SPLITS = {"train": "train", "matched": "validation_matched", "mismatched": "validation_mismatched"}
HUB_FIELDS = {
    "sentence1": "premise",
    "sentence2": "hypothesis",
    "pairID": "pairID",
    "genre": "genre",
    **{name: name for name in ("heuristic", "subcase", "template")},
}
HUB_PARSES = ("premise_binary_parse", "binary_parse_premise")  # MultiNLI's and HANS's name for the same thing

OnBytes = Callable[[int, int, dict[str, Any]], None]


class AcquisitionError(OSError):
    """Public files that can't be had; the message says what was tried and what to put where by hand."""


def acquire_data(data: Data, *, on_bytes: OnBytes | None = None) -> Path:
    """The folder with the public files of a study whose source is not the sandbox; fetches what is missing.

    on_bytes: called with (bytes done, bytes in all, {}) while a file is fetched. Raises AcquisitionError where a file
    can't be fetched or is not the one that the study pins; no file is then left half-written.
    """
    folder = ROOT / Path(str(data.folder)).expanduser()
    if data.source == "folder":
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".acquire.lock"):
        if data.hub is not None and data.source == "hub":
            return convert_hub(data.hub.multinli, data.hub.hans, folder=folder)
        assert data.download is not None
        shown = str(data.folder)
        obtain_file(data.download.hans, folder / HANS_FILES[0], shown=f"{shown}/{HANS_FILES[0]}", on_bytes=on_bytes)
        if not all((folder / name).is_file() for name in MULTINLI_FILES.values()):
            archive = folder / ARCHIVE
            obtain_file(data.download.multinli, archive, shown=f"{shown}/{ARCHIVE}", on_bytes=on_bytes)
            unpack_multinli(archive, folder)
    return folder


def list_acquired(data: Data, folder: Path) -> list[dict[str, object]]:
    """What a study's data was made of: rows of file, sha256, pinned (the study's), agrees, and where it is from.

    `pinned` and `agrees` are None where the study pins nothing for the file.
    """
    pins = {}
    if data.source == "download" and data.download is not None:
        pins = {ARCHIVE: data.download.multinli, HANS_FILES[0]: data.download.hans}
    rows: list[dict[str, object]] = []
    for name in (ARCHIVE, *MULTINLI_FILES.values(), *HANS_FILES):
        if not (folder / name).is_file() or (name == ARCHIVE and data.source != "download"):
            continue
        found, release = hash_file(folder / name), pins.get(name)
        pinned = release.sha256 if release else None
        rows.append(
            {
                "file": name,
                "sha256": found,
                "pinned": pinned,
                "agrees": found == pinned if pinned else None,
                "from": describe_source(data, name, release),
            }
        )
    return rows


def describe_source(data: Data, name: str, release: Release | None) -> str:
    """Where a file comes from, in words."""
    if release is not None:
        return release.url
    if data.source == "hub" and data.hub is not None:
        dataset = data.hub.hans if name in HANS_FILES else data.hub.multinli
        local = Path(ROOT, dataset.name).is_dir()
        return f"{Path(dataset.name).name}, a local folder" if local else f"{dataset.name}, revision {dataset.revision}"
    return {"download": ARCHIVE, "sandbox": "the sandbox"}.get(data.source, "the folder")


def obtain_file(release: Release, path: Path, *, shown: str, on_bytes: OnBytes | None = None) -> None:
    """Have a release's file at `path`: what is there and agrees with the pinned checksum stays, else it is fetched.

    shown: how the path is written in messages. Raises AcquisitionError.
    """
    if not path.is_file():
        fetch_file(release, path, shown=shown, on_bytes=on_bytes)
    elif release.sha256 and (found := hash_file(path)) != release.sha256:
        raise AcquisitionError(
            f"{shown} has the sha256 {found}; the study pins {release.sha256} ({release.url}). Delete the file, so "
            "that it is fetched, or set data.source: folder to use files of your own"
        )


def fetch_file(release: Release, path: Path, *, shown: str, on_bytes: OnBytes | None = None) -> str:
    """Fetch a file whole and checked, or not at all; returns its sha256. Raises AcquisitionError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(release.url, timeout=TIMEOUT_SECONDS) as answer, temporary.open("wb") as file:
            total, done = int(answer.headers.get("Content-Length") or 0), 0
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if on_bytes:
                    on_bytes(done, max(total, done), {})
        if done < total:
            raise OSError(f"the connection ended after {done:,} of {total:,} bytes")
        check_digest(release, digest.hexdigest(), shown=shown)
        os.replace(temporary, path)
    except AcquisitionError:
        raise
    except (OSError, ValueError) as error:
        raise AcquisitionError(describe_failure(release, shown=shown, error=error)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return digest.hexdigest()


def check_digest(release: Release, found: str, *, shown: str) -> None:
    """Hold what came against the pinned checksum, or say what to pin. Raises AcquisitionError."""
    if release.sha256 is None:
        print(f"{shown}: fetched from {release.url}; no sha256 is pinned. To pin what came: sha256: {found}")
    elif found != release.sha256:
        raise AcquisitionError(
            f"{release.url} gave a file with the sha256 {found}; expected {release.sha256}. Nothing was kept. Either "
            "the transfer was disturbed (run again), or the release has changed: look before you pin another"
        )


def describe_failure(release: Release, *, shown: str, error: Exception) -> str:
    """What was tried, why it failed, and what to do by hand."""
    if isinstance(error, urllib.error.HTTPError):
        reason, offline = f"the server answers {error.code} {error.reason}", ""
    else:
        reason, offline = str(getattr(error, "reason", None) or error), " Is this machine offline?"
    checksum = f" (sha256 {release.sha256})" if release.sha256 else ""
    by_hand = "; or unpack it there, so that the folder has multinli_1.0/" if shown.endswith(ARCHIVE) else ""
    return (
        f"{shown} is missing, and {release.url} can't be fetched: {reason}.{offline} By hand: fetch that address "
        f"elsewhere{checksum} and save it as {shown}{by_hand}. Then run again"
    )


def unpack_multinli(archive: Path, folder: Path) -> None:
    """Take the three JSON lines files out of MultiNLI's archive, each whole or not at all. Raises AcquisitionError."""
    try:
        with zipfile.ZipFile(archive) as opened:
            present = set(opened.namelist())
            missing = [name for name in MULTINLI_FILES.values() if name not in present]
            if missing:
                raise AcquisitionError(f"{archive.name} has no {', '.join(missing)}; is it MultiNLI 1.0? Delete it")
            for name in MULTINLI_FILES.values():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                temporary = (folder / name).with_suffix(f".{os.getpid()}")
                with opened.open(name) as source, temporary.open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
                os.replace(temporary, folder / name)
    except zipfile.BadZipFile as error:
        raise AcquisitionError(f"{archive.name} can't be unpacked ({error}); delete it and run again") from error


def convert_hub(multinli: HubDataset, hans: HubDataset, *, folder: Path) -> Path:
    """Write two datasets of the hub as JSON lines under the releases' names; returns the folder of the two.

    The folder's name holds both ids and revisions. It is written anew each time, whole or not at all: the `datasets`
    library keeps what it has fetched. Raises AcquisitionError.
    """
    names = "+".join(f"{Path(d.name).name}@{(d.revision or 'local').replace('/', '-')[:12]}" for d in (multinli, hans))
    target, temporary = folder / "hub" / names, folder / "hub" / f".{names}.{os.getpid()}"
    wanted = {
        **{MULTINLI_FILES[split]: (multinli, name, LABELS) for split, name in HUB_SPLITS.items()},
        HANS_FILES[1]: (hans, "validation", HANS_LABELS),
    }
    try:
        for name, (dataset, split, labels) in wanted.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            rows = read_hub_rows(load_hub_split(dataset, split), dataset, labels=labels)
            with (temporary / name).open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def load_hub_split(dataset: HubDataset, split: str) -> Any:
    """One split as a `datasets.Dataset`, from the hub at its revision or from a folder in the hub's layout."""
    from datasets import load_dataset

    local = Path(ROOT, dataset.name).is_dir()
    source = str(Path(ROOT, dataset.name)) if local else dataset.name
    try:
        return load_dataset(source, split=split, revision=None if local else dataset.revision)
    except Exception as error:  # the library raises errors of a dozen kinds, of the network's and its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AcquisitionError(
            f"the split {split!r} of {dataset.name!r} (revision {dataset.revision}) can't be had: {reason} Expected "
            "parquet files, on the hub or in a local folder in the hub's layout. Offline: fetch the dataset elsewhere "
            "with `hf download --repo-type dataset` and name its folder instead of the id, or put the public files "
            "into a folder and set data.source: folder"
        ) from error


def read_hub_rows(dataset: Any, settings: HubDataset, *, labels: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """A split's rows under the releases' field names. Labels go by name; -1 is MultiNLI's row without a gold label.

    HANS has no pairID on the hub: the n-th row is `ex<n>`, as in the release. Raises AcquisitionError.
    """
    names = getattr(dataset.features.get("label"), "names", None)
    if names is None or sorted(names) != sorted(labels):
        raise AcquisitionError(
            f"the label of {settings.name!r} has the names {names}; expected the class labels {', '.join(labels)}"
        )
    fields = {ours: theirs for ours, theirs in HUB_FIELDS.items() if theirs in dataset.features}
    fields |= [("sentence1_binary_parse", name) for name in HUB_PARSES if name in dataset.features]
    number = 0
    for batch in dataset.select_columns(["label", *fields.values()]).iter(batch_size=1000):
        for row in range(len(batch["label"])):
            label = batch["label"][row]
            found = {ours: batch[theirs][row] for ours, theirs in fields.items()}
            gold = NO_GOLD_LABEL if label in (-1, None) else names[label]
            yield {"gold_label": gold, "pairID": f"ex{number}", **found}
            number += 1


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
