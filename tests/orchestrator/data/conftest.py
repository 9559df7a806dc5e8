"""Small images to spoil."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def save_image() -> Callable[..., Path]:
    """Saves an image, noisy so that damaged data cannot hide in a flat one; returns its path."""

    def save(
        path: Path, *, width: int = 64, height: int = 48, mode: str = "RGB", **how: Any
    ) -> Path:
        pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        elif mode == "F":
            image = Image.fromarray(pixels[..., 0].astype(np.float32))
        elif mode != "RGB":
            image = image.convert(mode)
        image.save(path, **how)
        return path

    return save
