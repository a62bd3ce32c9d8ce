"""Freed memory stays with the process: tensors made again and again touch no new pages."""

import subprocess
import sys

import pytest

from blindspot.memory import keep_freed_memory

COUNT_FAULTS = """
import resource, torch
from blindspot.memory import keep_freed_memory
assert keep_freed_memory()
x = torch.ones(2_000_000)
def count():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        y, z = x * 2, x + 1
        del y, z
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
count()
print(count())
"""


def test_tensors_made_again_fault_in_no_pages() -> None:
    if not keep_freed_memory():
        pytest.skip("no glibc")
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000, "8 MB twenty times over is 39,000 pages"
