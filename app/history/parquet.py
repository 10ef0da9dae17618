"""The history as a Parquet file, written piece by piece. Import it where it is used: pyarrow takes a while."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from app.history.sensitivity_repository import Record
from secateur.spec.records.history import QUANTILES, MatrixRecord, forms_of

_TYPES: Final = {"integer": pa.int64(), "number": pa.float64(), "string": pa.string()}


def _type_of(form: dict[str, Any]) -> pa.DataType:
    """Of objects of any shape: JSON text."""
    if form["type"] == "object":
        return pa.string() if form["additionalProperties"] is True else pa.map_(pa.string(), pa.float64())
    return _TYPES[form["type"]]


_RECORD: Final = {name: _type_of(form) for name, form, _ in forms_of(MatrixRecord) if name != "matrix"}
SCHEMA: Final = pa.schema(
    [
        ("job", pa.string()),
        ("lineage_stage", pa.int32()),
        ("stage", pa.int32()),
        ("domain", pa.string()),
        ("block", pa.int32()),
        ("matrix", pa.string()),
        *_RECORD.items(),
        ("basis", pa.string()),
        ("sensitivity_mean", pa.float64()),
        ("sensitivity_total", pa.float64()),
        ("sensitivity_share", pa.float64()),
        *((f"sensitivity_q{quantile}", pa.float64()) for quantile in QUANTILES),
        ("histogram_scale", pa.string()),
        ("histogram_edges", pa.list_(pa.float64())),
        ("histogram_counts", pa.list_(pa.int64())),
    ]
)
"""One row a matrix and stage: its record (`…/matrices`), `notes` as JSON, its summary (`…/sensitivity`)."""


class _Outbox(io.RawIOBase):
    """Takes what a writer writes until somebody fetches it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(self._pieces[-1])

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def encode(pieces: Iterable[Sequence[Record]], metadata: dict[str, str]) -> Iterator[bytes]:
    """The file's bytes; each piece becomes a row group and is forgotten. metadata: for the file's schema."""
    outbox = _Outbox()
    with pq.ParquetWriter(outbox, SCHEMA.with_metadata(metadata), compression="zstd") as writer:
        for piece in pieces:
            writer.write_table(pa.Table.from_pylist([_flat(record) for record in piece], schema=writer.schema))
            yield outbox.take()
    yield outbox.take()


def _flat(record: Record) -> dict[str, Any]:
    row = record.row
    found: dict[str, Any] = {
        "job": row.job_id,
        "lineage_stage": record.lineage_stage,
        **{name: getattr(row, name) for name in ("stage", "domain", "block", "matrix", "basis")},
        "sensitivity_mean": row.mean,
        "sensitivity_total": row.total,
        "sensitivity_share": record.share,
        **{f"sensitivity_q{quantile}": row.quantiles.get(str(quantile)) for quantile in QUANTILES},
        **{f"histogram_{name}": row.histogram.get(name) for name in ("scale", "edges", "counts")},
    }
    if (of_matrix := record.record) is not None:
        found |= {name: _cell(getattr(of_matrix, name), kind) for name, kind in _RECORD.items()}
    return found


def _cell(value: Any, kind: pa.DataType) -> Any:
    if not isinstance(value, dict):
        return value
    return json.dumps(value, sort_keys=True) if kind == pa.string() else list(value.items())
