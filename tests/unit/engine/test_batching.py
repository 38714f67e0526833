"""How the rows of a call are cut into batches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask_api.bundle import ForwardPath
from multitask_serving.engine.batching import cached_batches

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=50)
PATHS = {
    "padded": ForwardPath(),
    "of equal length": ForwardPath(batches="EqualLengths"),
    "single rows": ForwardPath(batches="SingleRows"),
}


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
@given(lengths=LENGTHS, answer=st.integers(0, 9), data=st.data())
def test_the_rows_of_some_batches_form_the_same_batches_again(path, lengths, answer, data):
    """Processes that share the batches of a call depend on it: a row is computed with the same neighbours."""
    batches = list(cached_batches(path, lengths, [length + answer for length in lengths], 100))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    chosen = [batch for batch in batches if data.draw(st.booleans())]
    rows = sorted(row for batch in chosen for row in batch)
    own = [lengths[row] for row in rows]
    again = cached_batches(path, own, [length + answer for length in own], 100)
    assert [[rows[number] for number in batch] for batch in again] == chosen
