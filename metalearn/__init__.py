"""Train and compare few-shot learners: fixed test tasks, disjoint classes, learn2learn's meta-modules on many tasks at once."""

from __future__ import annotations

__version__ = "0.1.0"
