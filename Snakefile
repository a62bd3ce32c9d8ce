"""The grid. One job = one notebook at one point of the study, executed by papermill (`python -m blindspot run`).

    snakemake --config study=sandbox          # what `make study` does

The executed notebook is the job's log, so it stays where a job fails; `summary.json` with the artefacts are its
outputs. The study's values that matter to a stage are `params`, so that a change reruns what it touches.
"""

import json
import shlex
import sys
from urllib.parse import unquote

from blindspot.grid import expand_study, job_parameters
from blindspot.launch import rule_name
from blindspot.study import load_study

STUDY = str(config.get("study", "sandbox"))
OVERRIDES = unquote(config.get("overrides") or "")  # quoted, since Snakemake reads plain YAML without its types
JOBS = expand_study(load_study(STUDY, OVERRIDES))


def command_line(job):
    """What runs a job."""
    arguments = job_parameters(job, study=STUDY, overrides=OVERRIDES)
    return shlex.join([sys.executable, "-m", "blindspot", "run", job.stage, "--parameters", arguments])


rule all:
    input:
        [path for job in JOBS for path in job.output_paths()],


for job in JOBS:

    rule:
        name:
            rule_name(job)
        input:
            job.input_paths(),
        output:
            job.output_paths(),
        log:
            job.log_path(),
        params:
            values=json.dumps(job.values, sort_keys=True),
            # A function's value reruns nothing, so overrides that leave a stage's own values alone do not either. It
            # keeps the loop's job: `shell` itself is evaluated when a job starts, and would see the last one.
            command=lambda wildcards, job=job: command_line(job),
        threads: job.threads
        resources:
            mem_mb=job.memory_mb,
            gpus=job.gpus,
        shell:
            "OMP_NUM_THREADS={threads} TOKENIZERS_PARALLELISM=false {params.command}"
