"""Values written as text."""

from __future__ import annotations

import pytest

from impasto import text_values


def test_layers_have_weights() -> None:
    """A layer without a number has weight 1."""
    assert text_values.layer_weights("relu1_1=0.5, relu2_1,") == {"relu1_1": 0.5, "relu2_1": 1.0}
    with pytest.raises(ValueError, match=r"'x' in 'a=x' is not a number"):
        text_values.layer_weights("a=x")


@pytest.mark.parametrize("text", ["256", "a:1", "256:1.5", "256:-1", "1:2,"])
def test_a_schedule_is_sizes_and_steps(text: str) -> None:
    """Anything else names the item."""
    assert text_values.schedule("256:100, 512:50") == [(256, 100), (512, 50)]
    with pytest.raises(ValueError, match="is not SIZE:STEPS"):
        text_values.schedule(text)
