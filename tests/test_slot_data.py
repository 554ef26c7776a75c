"""Families of the slot problem and the import of lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelkit.errors import InputError
from modelkit.sources.families import generate
from modelkit.sources.traces import import_trace


@pytest.mark.parametrize("law", ["gamma", "lognormal"])
def test_gsm8k_has_the_published_moments(law: str) -> None:
    """Tests means and standard deviations over many draws."""
    arrays = generate("gsm8k", seed=1, requests=60_000, output_law=law).arrays
    assert arrays.prompt.mean() == pytest.approx(68.43, rel=0.01)
    assert arrays.prompt.std() == pytest.approx(25.04, rel=0.02)
    assert arrays.output.mean() == pytest.approx(344.83, rel=0.01)
    assert arrays.output.std() == pytest.approx(187.99, rel=0.02)


def test_gsm8k_predictions() -> None:
    """Tests that predictions are off by no more than asked for, and lengths do not depend on it."""
    wrong, right = (generate("gsm8k", seed=1, prediction_error=e).arrays for e in (0.3, 0.0))
    assert (wrong.output == right.output).all()
    assert (right.predicted_upper == right.output).all()
    assert np.abs(wrong.predicted_upper / wrong.output - 1).max() <= 0.3 + 0.5 / wrong.output.min()
    with pytest.raises(InputError, match="--slots"):
        generate("gsm8k", slots=0)


def test_lengths_from_columns(tmp_path: Path) -> None:
    """Tests columns named by options, and outputs from the law when there is none."""
    path = tmp_path / "table.csv"
    path.write_text("question,answer,other\n74,66,x\n32,50,y\n9,7,z\n")
    both = import_trace("lengths", path, prompt_column="question", output_column="answer", slots=2)
    assert both.arrays.prompt.tolist() == [74, 32, 9]
    assert both.arrays.output.tolist() == [66, 50, 7]
    assert both.server.slots == 2
    drawn = import_trace("lengths", path, prompt_column="question", requests=2, seed=3)
    assert drawn.arrays.prompt.tolist() == [74, 32]
    assert (
        drawn.arrays.output.tolist()
        == import_trace("lengths", path, prompt_column="question", requests=2, seed=3).arrays.output.tolist()
    )
    assert drawn.server.clock == generate("gsm8k", requests=1).server.clock


def test_faults_of_lengths_are_reported_together(tmp_path: Path) -> None:
    """Tests wrong columns, values and options."""
    path = tmp_path / "table.csv"
    path.write_text("question,answer\n74,-1\n-3,50\n9.5,\n")
    with pytest.raises(InputError) as caught:
        import_trace("lengths", path, prompt_column="question", output_column="answer")
    assert [fault.path for fault in caught.value.faults] == [
        "line 2, answer", "line 3, question", "line 4, question", "line 4, answer"
    ]  # fmt: skip
    with pytest.raises(InputError, match="did you mean 'question'"):
        import_trace("lengths", path, prompt_column="questoin")
    with pytest.raises(InputError, match="--slots"):
        import_trace("lengths", path, prompt_column="question", slots=0)
    with pytest.raises(InputError, match="--decode-base-ms"):
        import_trace("lengths", path, prompt_column="question", decode_base_ms=float("nan"))
    path.write_text("question\n")
    with pytest.raises(InputError, match="has no request"):
        import_trace("lengths", path, prompt_column="question")
