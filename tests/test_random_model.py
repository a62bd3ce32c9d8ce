"""The random Llama: any English text comes back from its tokenizer, the same seed gives the same weights."""

import hashlib
from pathlib import Path

import pytest
from test_data import make_folder

from blindspot.random_model import write_random_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    return write_random_llama(folder / "model", data=make_folder(folder / "data"), seed=1, vocabulary=300)


def test_any_text_comes_back(model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    for text in ("Premise: a b", " two  spaces\nand naïve café — “quotes” 漢字 🙂", "isn't  it ?"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (None, 2), "as Llama-2's"


def test_its_shape(model: Path) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    assert (config.num_hidden_layers, config.hidden_size, config.tie_word_embeddings) == (2, 128, False)
    assert config.model_type == "llama"


def test_the_seed_decides(model: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data")
    digests = {
        seed: hashlib.sha256(
            (
                write_random_llama(tmp_path / f"model-{seed}", data=data, seed=seed, vocabulary=300)
                / "model.safetensors"
            ).read_bytes()
        ).hexdigest()
        for seed in (1, 2)
    }
    assert hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest() == digests[1] != digests[2]


def test_errors_leave_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists already; delete it"):
        write_random_llama(model, data=tmp_path, seed=1)
    with pytest.raises(ValueError, match="width is 100; expected a multiple of 8"):
        write_random_llama(tmp_path / "new", data=tmp_path, seed=1, width=100)
    with pytest.raises(FileNotFoundError):
        write_random_llama(tmp_path / "new", data=tmp_path / "nowhere", seed=1)
    assert list(tmp_path.iterdir()) == []
