"""A made-up world with known truth, its files, and the tiny language model that comes with it.

`judge_pair` decides the label of any pair of its language, `bracket_text` parses any sentence of it, and
`write_sandbox_data` writes the public releases' files.
The model's part, `sandbox.model`, needs torch and is imported by name.
"""

from blindspot.sandbox.files import write_sandbox_data
from blindspot.sandbox.trees import bracket_text
from blindspot.sandbox.truth import judge_pair

__all__ = ["bracket_text", "judge_pair", "write_sandbox_data"]
