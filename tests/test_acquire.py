"""Public files from a download, a folder or a hub: whole and checked, or a word that says what to do by hand."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_data import make_folder

from blindspot.acquire import AcquisitionError, acquire_data, list_acquired
from blindspot.data import HANS_FILES, MULTINLI_FILES, SPLITS, prepare_store
from blindspot.study import StudyError, load_study
from blindspot.study_data import Data

HANS = HANS_FILES[0]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A server's folder: MultiNLI's archive, with more in it than is wanted, and HANS's file."""
    files = make_folder(tmp_path / "files")
    site = tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(site / "multinli_1.0.zip", "w") as archive:
        for name in MULTINLI_FILES.values():
            archive.write(files / name, name)
        archive.writestr("__MACOSX/junk", "junk")
        archive.writestr("../outside.txt", "outside")
    (site / "hans.txt").write_bytes((files / HANS).read_bytes())
    return site


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_data(site: Path, folder: Path, **changes: Any) -> Data:
    """A `data` section that fetches from the site; changes are `multinli` or `hans` releases."""
    download = {
        "multinli": {"url": (site / "multinli_1.0.zip").as_uri(), "sha256": digest(site / "multinli_1.0.zip")},
        "hans": {"url": (site / "hans.txt").as_uri(), "sha256": digest(site / "hans.txt")},
    }
    values = {"source": "download", "folder": str(folder), "download": download | changes, "held_out_per_label": 1}
    return Data.model_validate(values)


def list_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".acquire.lock"}


def test_a_download_is_checked_unpacked_and_not_fetched_again(release: Path, tmp_path: Path) -> None:
    data = make_data(release, tmp_path / "data")
    seen: list[tuple[int, int]] = []
    folder = acquire_data(data, on_bytes=lambda done, total, _: seen.append((done, total)))
    assert folder == tmp_path / "data"
    assert list_files(folder) == {"multinli_1.0.zip", *MULTINLI_FILES.values(), HANS}
    assert not (tmp_path / "outside.txt").exists()
    sizes = [(release / name).stat().st_size for name in ("hans.txt", "multinli_1.0.zip")]
    assert seen == [(size, size) for size in sizes]
    tables, counts = prepare_store(folder, held_out_per_label=1)
    again, _ = prepare_store(tmp_path / "files", held_out_per_label=1)
    assert counts["train_labelled"] == 9 and all(tables[split].equals(again[split]) for split in SPLITS)
    for path in release.iterdir():
        path.unlink()
    assert acquire_data(data) == folder
    (folder / MULTINLI_FILES["matched"]).unlink()
    assert list_files(acquire_data(data)) >= set(MULTINLI_FILES.values()), "unpacked from the archive that is there"


def test_what_was_acquired_is_listed_beside_what_is_pinned(release: Path, tmp_path: Path) -> None:
    data = make_data(release, tmp_path / "data")
    assert data.download is not None
    rows = {row["file"]: row for row in list_acquired(data, acquire_data(data))}
    assert list(rows) == ["multinli_1.0.zip", *MULTINLI_FILES.values(), HANS]
    assert rows[HANS] == {
        "file": HANS,
        "sha256": digest(release / "hans.txt"),
        "pinned": digest(release / "hans.txt"),
        "agrees": True,
        "from": data.download.hans.url,
    }
    train = rows[MULTINLI_FILES["train"]]
    assert (train["pinned"], train["agrees"], train["from"]) == (None, None, "multinli_1.0.zip")
    assert train["sha256"] == digest(tmp_path / "files" / MULTINLI_FILES["train"])


def test_without_a_pin_the_checksum_is_shown(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(release, tmp_path / "data", hans={"url": (release / "hans.txt").as_uri()})
    folder = acquire_data(data)
    shown = capsys.readouterr().out
    assert f"To pin what came: sha256: {digest(release / 'hans.txt')}" in shown and "multinli" not in shown
    [row] = [row for row in list_acquired(data, folder) if row["file"] == HANS]
    assert (row["sha256"], row["pinned"], row["agrees"]) == (digest(release / "hans.txt"), None, None)


def test_another_file_than_the_pinned_one_is_not_kept(release: Path, tmp_path: Path) -> None:
    data = make_data(release, tmp_path / "data")
    (release / "hans.txt").write_text("not HANS")
    found = digest(release / "hans.txt")
    with pytest.raises(AcquisitionError, match=f"gave a file with the sha256 {found}; expected"):
        acquire_data(data)
    assert list_files(tmp_path / "data") == set()


def test_a_file_put_there_by_hand_must_be_the_pinned_one(release: Path, tmp_path: Path) -> None:
    data = make_data(release, tmp_path / "data")
    (tmp_path / "data" / "hans").mkdir(parents=True)
    (tmp_path / "data" / HANS).write_text("another draw of HANS")
    with pytest.raises(AcquisitionError, match=r"the study pins .*Delete the file.*or set data\.source: folder"):
        acquire_data(data)


@pytest.mark.parametrize("members", [[], list(MULTINLI_FILES.values())[:2], None])
def test_an_archive_without_the_files_is_named(release: Path, tmp_path: Path, members: list[str] | None) -> None:
    archive = release / "multinli_1.0.zip"
    if members is None:
        archive.write_bytes(b"no archive")
    else:
        with zipfile.ZipFile(archive, "w") as opened:
            for name in members:
                opened.writestr(name, "{}")
    with pytest.raises(AcquisitionError, match=r"multinli_1\.0\.zip (has no multinli_1\.0/|can't be unpacked)"):
        acquire_data(make_data(release, tmp_path / "data"))
    assert list_files(tmp_path / "data") == {HANS, "multinli_1.0.zip"}, "no file is half unpacked"


def test_offline_says_what_was_tried_and_what_to_do(release: Path, tmp_path: Path) -> None:
    closed = {"url": "http://127.0.0.1:9/multinli_1.0.zip", "sha256": "0" * 64}
    with pytest.raises(AcquisitionError) as error:
        acquire_data(make_data(release, tmp_path / "data", multinli=closed))
    message = str(error.value)
    for words in (
        f"{tmp_path}/data/multinli_1.0.zip is missing, and http://127.0.0.1:9/multinli_1.0.zip can't be fetched: ",
        "refused. Is this machine offline? By hand: fetch that address elsewhere",
        f"(sha256 {'0' * 64}) and save it as {tmp_path}/data/multinli_1.0.zip; or unpack it there",
    ):
        assert words in message
    assert list_files(tmp_path / "data") == {HANS}


class BadServer(BaseHTTPRequestHandler):
    """`/short` ends in the middle; anything else is not found."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/short" else 404)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def bad_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), BadServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("path", "words"), [("short", "ended after 10 of 1,000 bytes"), ("gone", "answers 404")])
def test_a_server_that_fails_leaves_nothing(
    release: Path, tmp_path: Path, bad_server: str, path: str, words: str
) -> None:
    with pytest.raises(AcquisitionError, match=words):
        acquire_data(make_data(release, tmp_path / "data", hans={"url": f"{bad_server}/{path}"}))
    assert list_files(tmp_path / "data") == set()


def test_a_folder_is_taken_as_it_is(release: Path, tmp_path: Path) -> None:
    values = {"source": "folder", "folder": str(tmp_path / "files"), "held_out_per_label": 1}
    data = Data.model_validate(values)
    folder = acquire_data(data)
    assert folder == tmp_path / "files" and ".acquire.lock" not in {path.name for path in folder.iterdir()}
    rows = list_acquired(data, folder)
    assert [row["file"] for row in rows] == [*MULTINLI_FILES.values(), HANS]
    assert {row["from"] for row in rows} == {"the folder"} and {row["pinned"] for row in rows} == {None}


MULTINLI_NAMES = ["entailment", "neutral", "contradiction"]
HANS_NAMES = ["entailment", "non-entailment"]


def write_parquet(path: Path, rows: list[dict[str, Any]], names: list[str]) -> None:
    """A split as the hub keeps it: parquet whose metadata name the label's classes."""
    from datasets import ClassLabel, Dataset, Features, Value

    path.parent.mkdir(parents=True, exist_ok=True)
    features = {name: Value("string") for name in rows[0] if name != "label"} | {"label": ClassLabel(names=names)}
    Dataset.from_list(rows, features=Features(features)).to_parquet(path)


def make_hub(files: Path, folder: Path, *, names: list[str]) -> Data:
    """The files of `make_folder` as two datasets in the hub's layouts, labels numbered as `names` and HANS_NAMES."""
    splits = {"train": "train", "matched": "validation_matched", "mismatched": "validation_mismatched"}
    for split, name in splits.items():
        rows = [json.loads(line) for line in (files / MULTINLI_FILES[split]).read_text(encoding="utf-8").splitlines()]
        kept = [
            {
                **{"pairID": row["pairID"], "premise": row["sentence1"], "premise_binary_parse": "( a )"},
                **{"premise_parse": "(A a)", "hypothesis": row["sentence2"], "genre": row["genre"]},
                "label": names.index(row["gold_label"]) if row["gold_label"] != "-" else -1,
            }
            for row in rows
        ]
        write_parquet(folder / "multi_nli" / "data" / f"{name}-00000-of-00001.parquet", kept, names)
    header, *lines = (files / HANS).read_text(encoding="utf-8").splitlines()
    for split in ("train", "validation"):
        rows = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
        kept = [
            {
                **{"premise": row["sentence1"], "hypothesis": row["sentence2"], "binary_parse_premise": "( a )"},
                **{name: row[name] if split == "validation" else "train" for name in ("heuristic", "subcase")},
                **{"template": row["template"], "label": HANS_NAMES.index(row["gold_label"])},
            }
            for row in rows
        ]
        write_parquet(folder / "hans" / "plain_text" / split / "0000.parquet", kept, HANS_NAMES)
    hub = {name: {"name": str(folder / name)} for name in ("multi_nli", "hans")}
    return Data.model_validate(
        {
            **{"source": "hub", "folder": str(folder / "data"), "held_out_per_label": 1},
            "hub": {"multinli": hub["multi_nli"], "hans": hub["hans"]},
        }
    )


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("names", [MULTINLI_NAMES, MULTINLI_NAMES[::-1]])
def test_a_hub_gives_the_same_store_as_the_release(tmp_path: Path, names: list[str]) -> None:
    """Labels go by name, whatever the hub's numbers; HANS's pairIDs, which the hub lacks, are the release's."""
    files = make_folder(tmp_path / "files")
    data = make_hub(files, tmp_path / "hub", names=names)
    folder = acquire_data(data)
    assert folder.is_relative_to(tmp_path / "hub" / "data")
    tables, counts = prepare_store(folder, held_out_per_label=1)
    expected, expected_counts = prepare_store(files, held_out_per_label=1)
    assert counts == expected_counts and counts["train_without_gold_label"] == 1
    for split in SPLITS:
        assert tables[split].to_pylist() == expected[split].to_pylist()
    first = json.loads((folder / MULTINLI_FILES["train"]).read_text(encoding="utf-8").splitlines()[0])
    assert first["sentence1_binary_parse"] == "( a )"
    rows = list_acquired(data, folder)
    assert [row["from"] for row in rows] == ["multi_nli, a local folder"] * 3 + ["hans, a local folder"]
    before = digest(folder / MULTINLI_FILES["train"])
    assert digest(acquire_data(data) / MULTINLI_FILES["train"]) == before, "written again, the same"


@pytest.mark.usefixtures("hub_cache")
def test_a_hub_with_other_labels_is_refused(tmp_path: Path) -> None:
    files = make_folder(tmp_path / "files")
    data = make_hub(files, tmp_path / "hub", names=[*MULTINLI_NAMES, "none"])
    with pytest.raises(AcquisitionError, match=r"has the names \['entailment', .*'none'\]; expected the class labels"):
        acquire_data(data)
    assert list_files(tmp_path / "hub" / "data") == set()


@pytest.mark.usefixtures("hub_cache")
def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    hub = {"name": "nyu-mll/multi_nli", "revision": "da70db2af9d09693783c3320c4249840212ee221"}
    values = {"source": "hub", "folder": str(tmp_path), "held_out_per_label": 1, "hub": {"multinli": hub, "hans": hub}}
    with pytest.raises(AcquisitionError, match=r"'nyu-mll/multi_nli' \(revision da70.*Offline: fetch the dataset"):
        acquire_data(Data.model_validate(values))
    assert list_files(tmp_path) == set()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data.source": "hub", "data.hub": {"hans": {"revision": None}}}, "needs a 'revision'"),
        ({"data.folder": None}, "source 'download' needs the key 'folder'"),
        ({"data.download": None}, "source 'download' needs the key 'download'"),
        ({"data.download": {"hans": {"sha256": "abc"}}}, "data.download.hans.sha256: given 'abc'"),
        ({"data.download": {"hans": {"url": "ftp://x"}}}, "data.download.hans.url: given 'ftp://x'"),
        ({"data.expected_counts": {"trian": 1}}, "has no 'trian'; the counts are train_read.*did you mean 'train'"),
    ],
)
def test_mistakes_are_found_when_the_study_is_read(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        load_study("paper", overrides)


def test_the_paper_pins_both_releases_and_expects_their_counts() -> None:
    data = load_study("paper").data
    assert data.download is not None and data.download.multinli.sha256 and data.download.hans.sha256
    expected = data.expected_counts
    assert (expected["matched_labelled"], expected["mismatched_labelled"], expected["hans"]) == (9_815, 9_832, 30_000)
    by_label = [expected[f"train_{label}"] for label in MULTINLI_NAMES]
    assert by_label == [130_541, 130_573, 130_608] and sum(by_label) == expected["train"] == 391_722
    assert expected["train_labelled"] - expected["held_out"] - expected["train"] == 230, "copies that were dropped"
    empty = load_study("paper", {"data.expected_counts": {}}).data
    assert empty.expected_counts == {}
