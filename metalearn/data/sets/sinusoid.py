"""Sine waves to be regressed (Finn, Abbeel and Levine 2017, https://arxiv.org/abs/1703.03400, section 5.1).

A task is a wave y = amplitude * sin(x - phase), as in the authors' code; its examples are points of it, x drawn evenly. Training, validation and test
tasks come from the same distribution: all waves are different.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from metalearn.data.files.published import About
from metalearn.data.functions import Functions, Numbers, interval

ABOUT = About(
    "sine waves to be regressed, drawn by the program", "https://arxiv.org/abs/1703.03400", "MIT, as the program"
)


class Sinusoid(Functions):
    """Waves by amplitude and phase.

    Args:
        amplitude: lowest and highest.
        phase: lowest and highest, radians.
        x: lowest and highest.

    Raises:
        UserError: an interval is none.
    """

    own_numbers: ClassVar[int] = 2  # amplitude, phase

    def __init__(self, amplitude: Sequence[float], phase: Sequence[float], x: Sequence[float]) -> None:
        self.amplitude, self.phase = interval("amplitude", amplitude), interval("phase", phase)
        of_x = interval("x", x)
        super().__init__("sinusoid", of_x, [self.amplitude, self.phase, of_x])

    def values(self, numbers: Numbers, x: Numbers, further: Callable[[int], Numbers]) -> Numbers:
        """See Functions."""
        amplitude, phase = self.amplitude.at(numbers[:, :1]), self.phase.at(numbers[:, 1:])  # [T, 1]
        return amplitude * np.sin(x - phase)
