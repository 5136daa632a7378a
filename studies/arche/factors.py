"""The factors of the paper's protocol, the paper's level of each first, and the paper's own figures."""

from pathlib import Path

PAPER = Path(__file__).with_name("paper.json")
LAYOUTS = ("windows", "rows")
LENGTHS = ("short", "training")
VARIANTS = {"ar": ("once", "free"), "mdlm": ("penalty", "plain")}
# By arm: factor, the paper's level, the other one.
FACTORS = {arm: (("layout", *LAYOUTS), ("length", *LENGTHS), ("variant", *own)) for arm, own in VARIANTS.items()}
LABELS = {
    "windows": "windows",
    "rows": "rows",
    "short": "short",
    "training": "full length",
    "once": '"Once" forced',
    "free": "free start",
    "penalty": "penalty",
    "plain": "no penalty",
}
NAMES = {"ar": "AR", "mdlm": "MDLM"}
