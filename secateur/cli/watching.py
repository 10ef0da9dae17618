"""Watching a job until it ends."""

from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from secateur.answers import JobRead
from secateur.cli import show
from secateur.client import Client

EVERY_SHARE = 0.05
"""Without a terminal, a line is printed when this much more is done."""


def watch(client: Client, id: str, console: Console) -> JobRead:
    """The finished job. A live bar on a terminal, otherwise a line for every change."""
    if not console.is_terminal:
        return client.wait(id, on_update=_Lines(console).update)
    columns = (
        TextColumn("{task.fields[state]:<10}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}{task.description}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=1.0, state="", eta="")

        def update(job: JobRead) -> None:
            bar.update(
                task,
                completed=show.fraction(job),
                description=show.progress_text(job),
                state=job["state"],
                eta=_eta(job),
            )

        return client.wait(id, on_update=update)


def _eta(job: JobRead) -> str:
    progress = job.get("progress")
    at = progress.get("eta_at") if progress else None
    if at is None or job["state"] != "running":
        return ""
    seconds = max(0, int((datetime.fromisoformat(at) - datetime.now(UTC)).total_seconds()))
    return f"{seconds // 60}:{seconds % 60:02} left · "


class _Lines:
    """Prints a line when state, phase or stage changes, or enough was done since the last one."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.last: tuple[object, ...] = ()
        self.share = -1.0

    def update(self, job: JobRead) -> None:
        progress = job.get("progress")
        place = (progress.get("phase"), progress.get("stage")) if progress else (None, None)
        now = (job["state"], *place)
        share = show.fraction(job)
        if now != self.last or share - self.share >= EVERY_SHARE:
            self.last, self.share = now, share
            clock = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
            self.console.print(f"{clock} {job['id']} {job['state']} {share:.0%} {show.progress_text(job)}")
