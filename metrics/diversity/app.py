"""The Hub Space of this measurement: a table to type texts into."""

from pathlib import Path

import evaluate
from evaluate.utils import launch_gradio_widget

# The script and not the folder: a Space's folder has another name.
module = evaluate.load(str(Path(__file__).resolve().with_name("diversity.py")))
launch_gradio_widget(module)
