from __future__ import annotations

import pytest
from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor

from sttm.nano.model import load


@pytest.fixture(scope="session")
def nano() -> tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor]:
    return load()
