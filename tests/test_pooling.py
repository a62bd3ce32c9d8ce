"""Pooling, the trap that changes the science: whether a padded row's logits change with its neighbours in the batch.

In `last_token` mode (the paper's text) they must not; in `as_published` mode (its code) they do, since a row is read at
the last position of its padded batch. Both with a plain base and with one whose weights are 4-bit NF4, dequantised.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import load_tiny, make_vivid_adapter

from blindspot.models import HEAD, Adapter, Base, load_base, merged, new_adapter
from blindspot.prediction import measure_batch_difference, predict_logits, refuse_batch_difference
from blindspot.prompts import task_prompt
from blindspot.study import BaseModelSettings, Lora
from blindspot.training import tokenize

LORA = Lora(r=4, lora_alpha=8.0, lora_dropout=0.0, target_modules=["q_proj", "o_proj", "up_proj"])
ROW = task_prompt("The dogs ran.", "The dogs moved.")
SHORTER = task_prompt("It ran.", "It ran.")
LONGER = task_prompt("The king and the queen left the hall near the river today.", "The queen left the old hall.")
LONGEST = task_prompt("The lawyer saw the doctor who praised the happy actor. " * 3, "The actor ran home.")


@pytest.fixture(scope="module", params=["none", "nf4"])
def base(tiny_model: Path, request: pytest.FixtureRequest) -> Base:
    return load_tiny(tiny_model, request.param)


@pytest.fixture(scope="module")
def adapter(base: Base) -> Adapter:
    return make_vivid_adapter(base, LORA, seed=3)


def predict_row(base: Base, adapter: Adapter, neighbours: list[str], *, pooling: str) -> np.ndarray:
    """ROW's logits in one batch with its neighbours."""
    token_ids = tokenize(base, [ROW, *neighbours])
    return predict_logits(base, adapter, LORA, token_ids, batch_size=len(token_ids), pooling=pooling)[0]


def predict_by_hand(base: Base, adapter: Adapter, *, length: int) -> np.ndarray:
    """ROW alone through the plain model, padded to a length and read at its last position."""
    [ids] = tokenize(base, [ROW])
    padded = torch.full((1, length), base.pad_token_id)
    padded[0, : len(ids)] = torch.from_numpy(ids)
    mask = (torch.arange(length) < len(ids)).long()[None]
    with merged(base, adapter, LORA), torch.inference_mode():
        hidden = base.model.model(input_ids=padded, attention_mask=mask, use_cache=False)[0]
        return (hidden[0, -1] @ adapter[HEAD].T).numpy()


def test_the_two_bases_differ_by_quantisation_alone(base: Base, tiny_model: Path) -> None:
    settings = base.settings.model_copy(update={"quantization": "none"})
    weight = load_base(settings).model.model.layers[0].mlp.up_proj.weight
    same = torch.equal(weight, base.model.model.layers[0].mlp.up_proj.weight)
    assert same == (base.settings.quantization == "none")


def test_last_token_is_blind_to_neighbours(base: Base, adapter: Adapter) -> None:
    own_length = len(tokenize(base, [ROW])[0])
    alone = predict_by_hand(base, adapter, length=own_length)
    for neighbours in ([], [SHORTER], [LONGER], [LONGEST], [SHORTER, LONGEST, LONGER]):
        found = predict_row(base, adapter, neighbours, pooling="last_token")
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_as_published_reads_the_padding_that_its_neighbours_make(base: Base, adapter: Adapter) -> None:
    lengths = {text: len(tokenize(base, [text])[0]) for text in (SHORTER, ROW, LONGER, LONGEST)}
    assert list(lengths.values()) == sorted(set(lengths.values())), "the texts' lengths rise"
    found = {text: predict_row(base, adapter, [text], pooling="as_published") for text in lengths}
    np.testing.assert_allclose(found[SHORTER], found[ROW], atol=1e-5)  # the row itself is the longest: no padding
    for text in (LONGER, LONGEST):
        np.testing.assert_allclose(found[text], predict_by_hand(base, adapter, length=lengths[text]), atol=1e-5)
        assert np.abs(found[text] - found[ROW]).max() > 1e-3
    assert np.abs(found[LONGER] - found[LONGEST]).max() > 1e-3


def predict_batch(base: Base, adapter: Adapter, token_ids: list[np.ndarray], pooling: str) -> np.ndarray:
    return predict_logits(base, adapter, LORA, token_ids, batch_size=len(token_ids), pooling=pooling)


def test_the_check_of_an_evaluation_sees_it(base: Base, adapter: Adapter) -> None:
    token_ids = tokenize(base, [ROW, SHORTER, LONGER, LONGEST])
    differences = {
        pooling: measure_batch_difference(
            base, adapter, LORA, token_ids, predict_batch(base, adapter, token_ids, pooling), pooling=pooling
        )
        for pooling in ("last_token", "as_published")
    }
    assert differences["last_token"] < 1e-5 and differences["as_published"] > 1e-3
    refuse_batch_difference(differences["last_token"], model="m", pooling="last_token")
    refuse_batch_difference(differences["as_published"], model="m", pooling="as_published")
    with pytest.raises(ValueError, match=r"^m: a logit differs by .* between a row alone and in a batch"):
        refuse_batch_difference(differences["as_published"], model="m", pooling="last_token")
    with pytest.raises(ValueError, match="differs by nan"):
        refuse_batch_difference(float("nan"), model="m", pooling="last_token")


def test_an_evaluation_in_float32_keeps_the_weights_of_bfloat16(tiny_model: Path) -> None:
    """In bfloat16 the check would refuse every evaluation; float32 arithmetic on the same weights passes."""
    values = {"name": str(tiny_model), "quantization": "nf4", "compute_dtype": "bfloat16", "max_length": 256}
    settings = BaseModelSettings.model_validate(values)
    coarse, fine = load_base(settings), load_base(settings, arithmetic="float32")
    weights = fine.model.state_dict()
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert all(torch.equal(weight.float(), weights[name]) for name, weight in coarse.model.state_dict().items())
    adapter = new_adapter(coarse, LORA, seed=1, head=True)
    token_ids = tokenize(coarse, [ROW, SHORTER, LONGER, LONGEST])
    coarse_difference, fine_difference = (
        measure_batch_difference(
            base, adapter, LORA, token_ids, predict_batch(base, adapter, token_ids, "last_token"), pooling="last_token"
        )
        for base in (coarse, fine)
    )
    assert fine_difference < 1e-5 < 1e-4 < coarse_difference
