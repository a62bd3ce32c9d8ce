"""The benchmarks: every stage against the published procedure, on the same model, data, seeds and threads."""
