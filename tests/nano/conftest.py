from __future__ import annotations

import sys
from pathlib import Path

import pytest
from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor

from sttm.nano.model import load

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the package training/


@pytest.fixture(scope="session")
def nano() -> tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor]:
    return load()
