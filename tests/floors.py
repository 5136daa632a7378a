"""The lowest versions that setup.py declares, as constraints for pip: `make test-compat` installs these."""

import ast
from pathlib import Path

from packaging.requirements import Requirement

tree = ast.parse((Path(__file__).parents[1] / "setup.py").read_text(encoding="utf-8"))
(required,) = (
    node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "install_requires"
)
for line in ast.literal_eval(required):
    requirement = Requirement(line)
    lowest = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    print(f"{requirement.name}=={lowest[0]}")
