"""How long a kernel takes until the stack is imported: a fresh one, as the published procedure has for every cell,
against ours, which `bench.kernel_start` measures where the library has kernels of its own."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from jupyter_client import AsyncKernelManager

from bench.measure import Figures, find_ratio, meets, say, spread, stamp
from blindspot.execute import kernel_config

IMPORTS = (
    "import datasets, pandas, peft, pyarrow.parquet, torch, transformers, transformers.models.llama.modeling_llama"
)
AT_LEAST, AIM = 5.0, 11.0


def measure_kernels(*, rounds: int) -> Figures:
    """The stage's entry in results.json; without kernels of our own the ratio is null and says `not built`."""
    entry: Figures = {"title": "start of a kernel with the stack imported", "at_least": AT_LEAST, "aim": AIM}
    try:
        from bench.kernel_start import measure_kernel_start  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        return entry | measure_plain(rounds, note=f"not built: {error}")
    found = measure_kernel_start(rounds)
    rows: list[Figures] = [
        {"reference_seconds": plain, "reference_work": 1, "ours_seconds": forked, "ours_work": 1}
        for plain, forked in zip(found["plain"], found["forked"], strict=True)
    ]
    for row in rows:
        row["ratio"] = find_ratio(row)
    ratio = spread([row["ratio"] for row in rows]) if found["gate"] else None
    say(f"kernel_start: plain {found['plain']} s, forked {found['forked']} s")
    problem = None if found["gate"] else "; ".join(found["differences"])
    rest = {key: value for key, value in found.items() if key not in ("plain", "forked", "ratio", "spread")}
    return entry | {
        "gate": {"what": "clean namespace", "passed": bool(found["gate"]), "problem": problem, "figures": rest},
        "ratio": ratio,
        "meets_at_least": meets(ratio, AT_LEAST),
        "meets_aim": meets(ratio, AIM),
        "rounds": rows,
        "notes": {"server": "its own start is not counted: a study pays for it once"},
        **stamp(),
    }


def measure_plain(rounds: int, *, note: str) -> Figures:
    """Plain kernels alone: the reference's side, which the whole study is composed of."""
    seconds = [asyncio.run(time_plain_kernel()) for _ in range(rounds)]
    say(f"kernel_start: a plain kernel takes {statistics.median(seconds):.1f} s; ours is {note}")
    return {
        "gate": {"what": "clean namespace", "passed": None, "problem": note, "figures": {}},
        "ratio": None,
        "meets_at_least": None,
        "meets_aim": None,
        "rounds": [{"reference_seconds": value, "reference_work": 1} for value in seconds],
        "notes": {"ours": note},
        **stamp(),
    }


async def time_plain_kernel() -> float:
    """Seconds from the start of a plain kernel until it has imported the stack."""
    with tempfile.TemporaryDirectory(prefix="blindspot-") as sockets:
        started = time.perf_counter()
        kernel = AsyncKernelManager(kernel_name="python3", config=kernel_config(Path(sockets)))
        await kernel.start_kernel()
        client = kernel.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=120)
            reply = await client.execute_interactive(IMPORTS, timeout=120)
            seconds = time.perf_counter() - started
        finally:
            client.stop_channels()
            await kernel.shutdown_kernel(now=True)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(f"the stack could not be imported: {reply['content'].get('evalue')}")
    return seconds
