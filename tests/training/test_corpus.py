"""Lengths of the rows, of all that are stored and of a selection."""

import datasets
import numpy as np
import pyarrow as pa
import pytest

from arche_mdlm.training.corpus import row_lengths
from arche_mdlm.training.data import split_windows

LENGTHS = np.random.default_rng(0).integers(1, 2000, size=1000)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """1,000 rows in several batches on the disk, 4 MB of ids."""
    path = tmp_path_factory.mktemp("rows") / "rows.arrow"
    schema = datasets.Features({"input_ids": datasets.List(datasets.Value("int32"))}).arrow_schema
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for start in range(0, len(LENGTHS), 300):
            rows = [{"input_ids": list(range(n))} for n in LENGTHS[start : start + 300]]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    return datasets.Dataset.from_file(str(path))


def test_lengths_of_all_rows(stored):
    assert row_lengths(stored).tolist() == LENGTHS.tolist()
    assert row_lengths(stored.select(range(310, 700))).tolist() == LENGTHS[310:700].tolist()


def test_lengths_of_a_selection_without_reading_a_row(stored, monkeypatch):
    train, validation = split_windows(stored, 0.1)
    assert train._indices is not None
    expected = [len(ids) for ids in train["input_ids"]]
    monkeypatch.setattr(datasets.Dataset, "__getitem__", lambda *_: pytest.fail("a row was read"))

    lengths = row_lengths(train)

    assert lengths.tolist() == expected
    assert sorted([*lengths, *row_lengths(validation)]) == sorted(LENGTHS)
