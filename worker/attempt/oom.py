"""Whether the kernel killed for want of memory."""

from pathlib import Path


def oom_kills() -> int:
    """Processes of our control group that the kernel has killed for memory so far; 0 where it does not say."""
    try:
        group = Path("/proc/self/cgroup").read_text().strip().rsplit("::", 1)[-1]
        candidates = [Path(f"/sys/fs/cgroup{group}/memory.events"), Path("/sys/fs/cgroup/memory.events")]
        text = next(path for path in candidates if path.is_file()).read_text()
        return int(dict(line.split() for line in text.splitlines()).get("oom_kill", 0))
    except (OSError, StopIteration, ValueError):
        return 0
