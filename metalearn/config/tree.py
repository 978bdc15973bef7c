"""Walks through a nested mapping of settings, by dotted paths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf


def dotted_keys(plain: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of a nested mapping as a dotted path, inner nodes too, `limits` and `prefers` left out."""
    for key, value in plain.items():
        if key not in ("limits", "prefers"):
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from dotted_keys(value, f"{prefix}{key}.")


def leaves(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested mapping, under its dotted path."""
    for key, value in plain.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def settings(plain: dict[str, Any]) -> Iterator[str]:
    """The dotted path of every value that is no limit."""
    return (key for key, _ in leaves(plain) if "limits" not in key.split("."))


def without_limits(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as a plain mapping, interpolations resolved, without its `limits` nodes."""
    return plain_without_limits(container(cfg, resolve=True))


def plain_without_limits(plain: dict[str, Any]) -> dict[str, Any]:
    """A nested mapping without its `limits` nodes, at any depth."""
    kept = {key: value for key, value in plain.items() if key != "limits"}
    return {key: plain_without_limits(value) if isinstance(value, dict) else value for key, value in kept.items()}


def drop_limits(cfg: DictConfig) -> None:
    """Removes the `limits` nodes, at any depth, and leaves interpolations as they are written."""
    if "limits" in cfg:
        del cfg["limits"]
    for key in cfg:
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            drop_limits(node)


def container(cfg: DictConfig, resolve: bool) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]  # our YAML keys are texts
