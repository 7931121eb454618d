"""What the measurements share: percentiles, what a process has used, and the sections of docs/performance.md."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stack.places import ROOT

PAGE = ROOT / "docs" / "performance.md"


def summary(samples_ms: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the worst, in the unit of the samples; at least two samples."""
    cuts = statistics.quantiles(samples_ms, n=100, method="inclusive")
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "max": round(max(samples_ms), 3)}


def cpu_s(pid: int) -> float:
    """Processor time a process has used, in seconds; 0 where /proc does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where /proc does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def machine() -> str:
    """The machine in a few words; nothing that tells where it stands."""
    try:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        model = None
    processor = model[1].strip() if model else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores ({processor}), {platform.system()}, Python {platform.python_version()}"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines)


def write_section(name: str, markdown: str, page: Path = PAGE) -> None:
    """Replace what stands between the markers of this name in docs/performance.md; date and machine come first."""
    begin, end = f"<!-- {name}: written by the measurement -->", f"<!-- end of {name} -->"
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page.name} has no place for {name}")
    measured = f"Measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d} on {machine()}."
    page.write_text(f"{before}{begin}\n\n{measured}\n\n{markdown.strip()}\n\n{end}{after}", encoding="utf-8")


def finish(found: dict[str, Any]) -> None:
    """The last line of every measurement: one JSON object."""
    print(json.dumps(found), flush=True)
