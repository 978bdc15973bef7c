"""An experiment runner for meta-learning: few-shot tasks, learn2learn meta-modules, numbers one may believe."""

from __future__ import annotations

__version__ = "0.1.0"
