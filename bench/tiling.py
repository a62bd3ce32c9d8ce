"""A MultiNLI file of any size in the release's own form, parse fields included, made by tiling text that is here.

The shared real text has neither 400,000 rows nor parse fields. Both are made: rows are repeated with pair ids of their
own, a number behind the hypothesis from the second tile on (no pair may stand twice, or `prepare_store` drops it), and
parses of the real words under a right-branching tree. What is measured on it is reading, so the fields' form and
length matter and the trees do not.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from blindspot.data import HANS_FILES, MULTINLI_FILES
from blindspot.study import ROOT

REAL_TEXT = ROOT.parent / "shared" / "data" / "mnli-resplit"


def find_text(sandbox_data: Path) -> tuple[Path, str]:
    """Folder of the text to tile and what it is: the shared real text, or the sandbox's where that is absent."""
    if (REAL_TEXT / MULTINLI_FILES["train"]).is_file():
        return REAL_TEXT, "real MultiNLI text, ../shared/data/mnli-resplit"
    return sandbox_data, "the sandbox's text (no ../shared/data/mnli-resplit)"


def write_tiled(source: Path, target: Path, *, rows: int) -> Path:
    """Write `rows` rows of MultiNLI JSON lines, tiled from a file of that form; keeps a whole file that is there."""
    if target.is_file():
        return target
    with source.open(encoding="utf-8") as lines:
        originals = [json.loads(line) for line in lines]
    temporary = target.with_suffix(".tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w", encoding="utf-8") as file:
        for number in range(rows):
            tile, index = divmod(number, len(originals))
            file.write(json.dumps(make_row(originals[index], number=number, tile=tile)) + "\n")
    temporary.replace(target)
    return target


def make_row(row: dict[str, Any], *, number: int, tile: int) -> dict[str, Any]:
    """One row with the release's fields in the release's order."""
    first, second = row["sentence1"], row["sentence2"] + (f" {tile}" if tile else "")
    return {
        "annotator_labels": [row["gold_label"]],
        "genre": row["genre"],
        "gold_label": row["gold_label"],
        "pairID": f"{number}{row['gold_label'][0]}",
        "promptID": str(number),
        "sentence1": first,
        "sentence1_binary_parse": parse_binary(first),
        "sentence1_parse": parse_phrases(first),
        "sentence2": second,
        "sentence2_binary_parse": parse_binary(second),
        "sentence2_parse": parse_phrases(second),
    }


def parse_binary(sentence: str) -> str:
    """A right-branching binary parse: `( The ( lawyer left ) )`."""
    words = sentence.split()
    nested = "".join(f"( {word} " for word in words[:-1])
    return nested + "".join(words[-1:]) + " )" * (len(words) - 1)


def parse_phrases(sentence: str) -> str:
    """A parse of the Penn Treebank's form, of the same words: `(ROOT (S (NN The) (NN lawyer)))`."""
    return "(ROOT (S " + " ".join(f"(NN {word})" for word in sentence.split()) + "))"


def write_tiled_folder(text: Path, folder: Path, *, rows: int) -> Path:
    """A whole data folder whose training file has `rows` rows; the other files are those of `text`."""
    write_tiled(text / MULTINLI_FILES["train"], folder / MULTINLI_FILES["train"], rows=rows)
    others = [MULTINLI_FILES["matched"], MULTINLI_FILES["mismatched"], HANS_FILES[0]]
    for name in others:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).is_file():
            shutil.copyfile(text / name, folder / name)
    return folder
