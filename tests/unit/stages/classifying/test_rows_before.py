"""Maps that a step has changed are given back what they held."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.attention.bank import MapBank
from dist_oaa.stages.classifying.rows_before import RowsBefore


def filled(rows: int, dtype: torch.dtype) -> MapBank:
    torch.manual_seed(rows)
    bank = MapBank.empty(rows, 5, dtype)
    bank.grid_R2Q.copy_((torch.rand(bank.grid_R2Q.shape) * 200).to(dtype))
    bank.accepted_R.copy_(torch.arange(rows))
    bank.dirty_R[::2] = True
    bank.fallback_R[::3] = True
    return bank


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
@given(st.lists(st.lists(st.integers(0, 8), unique=True), max_size=4))
def test_all_micro_batches_of_a_step_are_taken_back(dtype, parts):
    """A row may be in several of them: the newest copy goes back first."""
    bank, expected = filled(9, dtype), filled(9, dtype)
    before = []
    for number, part in enumerate(parts):
        before.append(RowsBefore.of(bank, torch.tensor(part, dtype=torch.int64)))
        for tensor in bank.tensors().values():
            tensor[part] = torch.tensor(number % 2, dtype=tensor.dtype)
    while before:
        before.pop().restore()
    for name, tensor in expected.tensors().items():
        assert torch.equal(bank.tensors()[name], tensor), name
