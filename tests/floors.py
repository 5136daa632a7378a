"""The lowest versions that the package declares, as constraints for pip: `make test-compat` installs these."""

from importlib.metadata import requires

from packaging.requirements import Requirement

for line in requires("arche-mdlm") or []:
    requirement = Requirement(line)
    lowest = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    if lowest and requirement.marker is None:
        print(f"{requirement.name}=={lowest[0]}")
