"""Resources as text for people."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from secateur.transport import Answer

PROSE: Final = 16
"""Characters that a column of prose keeps at the least."""


PHASES: Final = {
    "staging": "fetching model and texts",
    "surveying": "surveying the dense model",
    "tuning": "tuning the whole model",
    "publishing": "publishing the result",
}
"""What a phase is called where its name alone does not tell."""
OF_BLOCKS: Final = {"evaluating", "pruning"}
"""Phases that go from block to block once."""


def table(*columns: str) -> Table:
    """A plain table. Columns whose names begin with `>` are aligned right; those with `~` are prose, which may be
    folded, and no other is ever broken or cut."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        found.add_column(column.lstrip(">~"), justify=justify, no_wrap=not column.startswith("~"), overflow="fold")
    return found


def print_table(console: Console, found: Table) -> None:
    """In the terminal's width where everything but prose fits into it, else as wide as that is; where the output
    is no terminal, as wide as it likes."""
    natural = least = -2  # no column has a margin at the table's edges
    for column in found.columns:
        size = max(cell_len(str(cell)) for cell in (column.header, *column.cells)) + 2
        natural += size
        least += size if column.no_wrap else min(size, PROSE)
    found.width = min(natural, max(console.width, least)) if console.is_terminal else natural
    console.print(found, crop=False)


def jobs_table(jobs: Iterable[Answer]) -> Table:
    """One line a job."""
    found = table("job", "state", ">done", "method", ">sparsity", "~model", "created")
    for job in jobs:
        spec = job["spec"]
        found.add_row(
            job["id"],
            job["state"],
            f"{fraction(job):.0%}",
            job["method"],
            percent(spec.get("sparsity", {}).get("target")),
            job["model"],
            moment(job["created_at"]),
        )
    return found


def job_lines(job: Answer) -> Iterable[tuple[str, str]]:
    """Name and value of what matters about a job."""
    yield "job", job["id"]
    yield "state", job["state"]
    yield "model", job["model"]
    yield "method", job["method"]
    if effort := job["spec"].get("effort"):
        yield "effort", effort
    if job.get("continues"):
        yield "continues", f"{job['continues']} ({job['first_stage']} stages before)"
    yield "created", moment(job["created_at"])
    if job.get("finished_at"):
        yield "finished", moment(job["finished_at"])
    yield "attempts", str(job["attempts"])
    if job.get("progress") and not job.get("finished_at"):
        yield "progress", progress_text(job)
    if failure := job.get("failure"):
        yield "failure", failure_text(failure)
    if result := job.get("result"):
        yield "sparsity", percent(result.get("sparsity"), 3)
        yield "perplexity", _perplexities(result)
        yield "BWT", number(result.get("bwt"))
        yield "files", f"{result.get('files')} ({size(result.get('bytes'))})"
        yield "manifest", str(result.get("manifest_digest"))
        for warning in result.get("warnings") or ():
            yield "warning", warning_text(warning)


def warning_text(warning: Answer) -> str:
    """What is the matter, and the names and numbers behind it."""
    data = ", ".join(f"{name} {_plain(value)}" for name, value in (warning.get("data") or {}).items())
    return f"{warning['message']} ({warning['code']}{': ' if data else ''}{data})"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def failure_text(failure: Answer) -> str:
    """Whose fault, which code, what to do."""
    place = f" at {failure['field']}" if failure.get("field") else ""
    return f"{failure.get('message')} ({failure.get('code')}, cause: {failure.get('cause')}{place})"


def progress_text(job: Answer) -> str:
    """Where a running job is, in a few words."""
    progress = job.get("progress") or {}
    phase = job.get("phase") or progress.get("phase")
    words = [PHASES.get(str(phase), str(phase or job["state"]))]
    if phase != progress.get("phase"):
        return words[0]  # the worker is at something that the engine has not told of yet, or no more
    if phase == "evaluating" and progress.get("stage") is None:
        words = ["evaluating the dense model"]
    if progress.get("domain") is not None:
        words.append(f"{progress['domain']} ({(progress.get('stage') or 0) + 1}/{progress.get('stages')})")
    if phase in OF_BLOCKS and progress.get("block") is not None and progress.get("blocks"):
        words.append(f"block {min(progress['block'] + 1, progress['blocks'])}/{progress['blocks']}")
    return " · ".join(words)


def fraction(job: Answer) -> float:
    """How much of a job is done, 0 to 1."""
    if job["state"] == "succeeded":
        return 1.0
    return float((job.get("progress") or {}).get("fraction") or 0.0)


def evaluation_table(evaluation: Answer) -> Table:
    """The matrix R: a row a model (dense, then after each stage), a column a domain."""
    found = table("perplexity after", *(f">{domain}" for domain in evaluation["domains"]))
    for row in evaluation["rows"]:
        name = "(dense)" if row["row"] == 0 else row["after"]
        values = (number((row["perplexity"] or {}).get(domain)) for domain in evaluation["domains"])
        found.add_row(name, *values)
    return found


def tasks_table(tasks: Iterable[Answer]) -> Table:
    """One line a task, model and figure; of which lm-eval, where that is not one for all."""
    tasks = list(tasks)
    differ = len({each.get("harness") for each in tasks} - {None}) > 1
    found = table("task", "model", "figure", ">value", ">± error", ">rows", ">few-shot", "~why not")
    for each in tasks:
        for metric in each["metrics"] or [{}]:
            filter = metric.get("filter", "none")
            found.add_row(
                each["name"] + (f" (lm-eval {each.get('harness') or '–'})" if differ else ""),
                each["model"],
                metric.get("name", "–") + ("" if filter == "none" else f" ({filter})"),
                number(metric.get("value"), 4),
                number(metric.get("stderr"), 4),
                *("–" if count is None else str(count) for count in (each["rows"], each["few_shot"])),
                each["error"] or "",
            )
    return found


def number(value: Any, digits: int = 2) -> str:
    return "–" if value is None else f"{float(value):.{digits}f}"


def percent(value: Any, digits: int = 0) -> str:
    return "–" if value is None else f"{float(value):.{digits}%}"


def size(count: Any) -> str:
    """Bytes in the largest unit that keeps the number above one."""
    if count is None:
        return "–"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def moment(text: str) -> str:
    """A time of the API in the local zone."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _perplexities(result: Answer) -> str:
    dense, pruned = result.get("dense_mean_perplexity"), result.get("mean_perplexity")
    return f"{number(dense)} dense → {number(pruned)} pruned (mean over domains)"
