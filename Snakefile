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
RUN = f"{shlex.quote(sys.executable)} -m blindspot run"
CHANGES = shlex.quote(OVERRIDES)  # no param of a job: overrides that leave its own values alone do not run it again


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
            stage=job.stage,
            parameters=shlex.quote(job_parameters(job, study=STUDY)),
        threads: job.threads
        resources:
            mem_mb=job.memory_mb,
            gpus=job.gpus,
        shell:
            "OMP_NUM_THREADS={threads} TOKENIZERS_PARALLELISM=false "
            "{RUN} {params.stage} --parameters {params.parameters} --overrides {CHANGES}"
