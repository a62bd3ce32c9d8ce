"""Does training on synthetic data make a model less robust? The helper library behind the study's notebooks."""
