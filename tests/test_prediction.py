"""Prediction: the table it leaves, the shared prefix, file order, and the two checks that guard it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import PAIRS
from safetensors.torch import load_file, save_file
from tiny import load_tiny, make_vivid_adapter

from blindspot import prediction
from blindspot.data import LABELS, SPLITS
from blindspot.evaluation import PREDICTION_COLUMNS
from blindspot.models import HEAD, Adapter, Base, load_adapter, merged, new_adapter, save_adapter
from blindspot.prediction import (
    check_round_trip,
    measure_batch_difference,
    pad_rows,
    predict_logits,
    predict_next_tokens,
    predict_padded,
    predict_sorted,
    shared_prefix,
    tabulate_predictions,
    tokenize_pairs,
)
from blindspot.study import Lora

LORA = Lora(r=4, lora_alpha=8.0, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "up_proj"])


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Base:
    return load_tiny(tiny_model)


@pytest.fixture(scope="module")
def adapter(base: Base) -> Adapter:
    return make_vivid_adapter(base, LORA, seed=5)


@pytest.fixture(scope="module")
def token_ids(base: Base) -> list[np.ndarray]:
    pairs = pa.table({"premise": [p for p, _, _ in PAIRS], "hypothesis": [h for _, h, _ in PAIRS]})
    return tokenize_pairs(base, pairs)


def predict_alone(base: Base, adapter: Adapter, token_ids: list[np.ndarray]) -> np.ndarray:
    """Each row by itself through the plain model, no cache, no padding, no sorting."""
    rows = []
    with merged(base, adapter, LORA), torch.inference_mode():
        for ids in token_ids:
            hidden = base.model.model(input_ids=torch.from_numpy(ids)[None], use_cache=False)[0]
            rows.append((hidden[0, -1] @ adapter[HEAD].T).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(
    ("rows", "length"),
    [
        ([[1, 2, 3, 4], [1, 2, 5, 6]], 2),
        ([[1, 2, 3], [1, 2, 3]], 2),  # one token of each row is left
        ([[1, 2, 3], [1, 2]], 1),
        ([[1, 2], [3, 2]], 0),
        ([[7], [7, 8]], 0),
        ([[4, 5, 6]], 2),
        ([], 0),
    ],
)
def test_shared_prefix(rows: list[list[int]], length: int) -> None:
    assert shared_prefix([np.array(row) for row in rows]) == length


def test_the_prompts_share_a_prefix(token_ids: list[np.ndarray]) -> None:
    assert shared_prefix(token_ids) > 10


def test_rows_are_padded_on_the_right() -> None:
    ids, mask = pad_rows([np.array([5, 6, 7]), np.array([8])], 3)
    assert ids.tolist() == [[5, 6, 7], [8, 3, 3]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.fixture(params=["unpadded", "padded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without padding, as for Llama in float32 on a CPU, and through transformers' layers, as for all else."""
    if request.param == "padded":
        monkeypatch.setattr(prediction, "suits", lambda model: False)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_file_order_is_kept(base: Base, adapter: Adapter, token_ids: list[np.ndarray], batch_size: int) -> None:
    expected = predict_alone(base, adapter, token_ids)
    found = predict_logits(base, adapter, LORA, token_ids, batch_size=batch_size)
    assert found.shape == (len(PAIRS), 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(np.diff(expected, axis=0)).min(axis=1).max() > 1e-3, "rows differ, so an order that is lost shows"
    backwards = predict_logits(base, adapter, LORA, token_ids[::-1], batch_size=batch_size)
    np.testing.assert_allclose(backwards[::-1], expected, atol=1e-5)


@pytest.mark.usefixtures("way")
def test_rows_without_a_shared_prefix(base: Base, adapter: Adapter, token_ids: list[np.ndarray]) -> None:
    rows = [ids[start:] for start, ids in enumerate(token_ids)]
    assert shared_prefix(rows) == 0
    found = predict_logits(base, adapter, LORA, rows, batch_size=4)
    np.testing.assert_allclose(found, predict_alone(base, adapter, rows), atol=1e-5)


def test_progress_and_nothing_to_predict(base: Base, adapter: Adapter, token_ids: list[np.ndarray]) -> None:
    seen: list[tuple[int, int]] = []
    for predict in (predict_sorted, predict_padded):
        seen.clear()
        predict(
            base, adapter[HEAD], token_ids, batch_size=4, on_batch=lambda done, total, _: seen.append((done, total))
        )
        assert seen == [(4, 11), (8, 11), (11, 11)]
        assert predict(base, adapter[HEAD], [], batch_size=4).shape == (0, 3)


def test_the_base_is_as_before(base: Base, adapter: Adapter, token_ids: list[np.ndarray]) -> None:
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    predict_logits(base, adapter, LORA, token_ids, batch_size=4)
    with pytest.raises(RuntimeError, match="half way"), merged(base, adapter, LORA):
        raise RuntimeError("half way")
    after = base.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_batch_difference(base: Base, adapter: Adapter, token_ids: list[np.ndarray]) -> None:
    def measure(pooling: str, logits: np.ndarray, rows: int = 24) -> float:
        return measure_batch_difference(base, adapter, LORA, token_ids, logits, pooling=pooling, rows=rows)

    alone = predict_alone(base, adapter, token_ids)
    batched, published = (
        predict_logits(base, adapter, LORA, token_ids, batch_size=11, pooling=pooling)
        for pooling in ("last_token", "as_published")
    )
    assert measure("last_token", batched) < 1e-5
    assert measure("as_published", published) > 1e-3
    assert measure("as_published", published) == pytest.approx(np.abs(published - alone).max(), abs=1e-5)
    for row, is_tried in ((0, True), (5, True), (10, True), (4, False)):  # three rows, spread evenly
        wrong = batched.copy()
        wrong[row, 1] += 0.5
        assert (measure("last_token", wrong, rows=3) > 0.4) == is_tried
    assert np.isnan(measure("last_token", np.full_like(batched, np.nan)))


def save(base: Base, adapter: Adapter, folder: Path) -> Path:
    save_adapter(folder, adapter, lora=LORA, base=base)
    return folder


def test_round_trip_of_what_was_saved(
    base: Base, adapter: Adapter, token_ids: list[np.ndarray], tmp_path: Path
) -> None:
    assert check_round_trip(base, adapter, save(base, adapter, tmp_path), LORA, token_ids) == 0.0


def test_round_trip_of_a_generator(base: Base, token_ids: list[np.ndarray], tmp_path: Path) -> None:
    """Without a head the next token's logits are compared; they are those of the plain model on each row alone."""
    fresh = new_adapter(base, LORA, seed=1, saved_modules=("embed_tokens", "lm_head"))
    adapter = {name: tensor + 0.1 if "lora_B" in name else tensor for name, tensor in fresh.items()}
    folder = save(base, adapter, tmp_path / "g")
    assert check_round_trip(base, adapter, folder, LORA, token_ids) == 0.0
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[next(name for name in tensors if "lm_head" in name)].view(-1)[0] += 0.05
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="g: logits differ by"):
        check_round_trip(base, adapter, folder, LORA, token_ids)
    alone = [base.model(torch.from_numpy(ids)[None]).logits[0, -1].detach().numpy() for ids in token_ids]
    np.testing.assert_allclose(predict_next_tokens(base, token_ids), np.stack(alone), atol=1e-5)


@pytest.mark.parametrize("part", [HEAD, "lora_A", "lora_B"])
def test_round_trip_finds_a_changed_file(
    base: Base, adapter: Adapter, token_ids: list[np.ndarray], tmp_path: Path, part: str
) -> None:
    folder = save(base, adapter, tmp_path / "run")
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if part in name)
    tensors[name].view(-1)[0] += 0.05
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"run: logits differ by .* after the adapter was saved and read back"):
        check_round_trip(base, adapter, folder, LORA, token_ids)


def test_round_trip_finds_logits_that_are_no_numbers(
    base: Base, adapter: Adapter, token_ids: list[np.ndarray], tmp_path: Path
) -> None:
    """A comparison with NaN is never true: `difference > 0` alone would let it pass."""
    folder = save(base, adapter, tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[HEAD][0, 0] = torch.nan
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="logits"):
        check_round_trip(base, adapter, folder, LORA, token_ids)


def test_head_rows_are_read_by_name(base: Base, adapter: Adapter, token_ids: list[np.ndarray], tmp_path: Path) -> None:
    folder = save(base, adapter, tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[HEAD] = tensors[HEAD][[2, 0, 1]].contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "labels.json").write_text('{"labels": ["contradiction", "entailment", "neutral"]}')
    assert torch.equal(load_adapter(folder)[HEAD], adapter[HEAD])
    (folder / "labels.json").write_text('{"labels": ["0", "1", "2"]}')
    with pytest.raises(ValueError, match="expected"):
        load_adapter(folder)


def test_predictions_as_a_table() -> None:
    assert SPLITS[-3:] == ("matched", "mismatched", "hans")
    pairs = pa.table(
        {
            **{"pair_id": ["1", "ex0"], "split": ["matched", "hans"], "genre": ["fiction", None]},
            **{"premise": ["A", "B"], "hypothesis": ["C", "D"], "gold_label": ["neutral", "non-entailment"]},
            **{"heuristic": [None, "subsequence"], "subcase": [None, "sn_NP/S"], "template": [None, "temp1"]},
        }
    )
    logits = np.array([[0.5, 1.5, -1.0], [2.0, 0.0, 1.0]], dtype=np.float32)
    table = tabulate_predictions(logits, pairs, starting_size=20, training_set="biased_synthetic-12", seed=3)
    assert set(table.column_names) == set(PREDICTION_COLUMNS)
    assert table.to_pylist() == [
        {
            **{"model": "start-20_seed-3_biased_synthetic-12", "starting_size": 20, "seed": 3},
            **{"training_kind": "biased_synthetic", "training_size": 12, "test_set": "matched", "pair_id": "1"},
            **{"gold_label": "neutral", "heuristic": None, "subcase": None, "template": None},
            **{"logit_entailment": 0.5, "logit_neutral": 1.5, "logit_contradiction": -1.0},
        },
        {
            **{"model": "start-20_seed-3_biased_synthetic-12", "starting_size": 20, "seed": 3},
            **{"training_kind": "biased_synthetic", "training_size": 12, "test_set": "hans", "pair_id": "ex0"},
            **{"gold_label": "non-entailment", "heuristic": "subsequence", "subcase": "sn_NP/S", "template": "temp1"},
            **{"logit_entailment": 2.0, "logit_neutral": 0.0, "logit_contradiction": 1.0},
        },
    ]
    for label in LABELS:
        assert table.schema.field(f"logit_{label}").type == pa.float32()
    [first, _] = tabulate_predictions(logits, pairs, starting_size=0, training_set="none", seed=1).to_pylist()
    assert (first["model"], first["training_kind"], first["training_size"]) == ("start-0_seed-1_none", "none", 0)
