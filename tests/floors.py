"""The lowest versions that setup.py declares, as constraints for pip: `make test-compat` installs these."""

import ast
from pathlib import Path

from packaging.requirements import Requirement

LISTS = ("BASE", "TRAIN", "METRICS")  # what our packages import; pictures and other people's tools are the newest ones

tree = ast.parse((Path(__file__).parents[1] / "setup.py").read_text(encoding="utf-8"))
found = {
    target.id: ast.literal_eval(node.value)
    for node in tree.body
    if isinstance(node, ast.Assign)
    for target in node.targets
    if isinstance(target, ast.Name) and target.id in LISTS
}
for line in dict.fromkeys(line for name in LISTS for line in found[name]):
    requirement = Requirement(line)
    lowest = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    print(f"{requirement.name}=={lowest[0]}")
