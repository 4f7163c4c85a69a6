# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the code cells of a notebook in one namespace and keeps what they show, without Jupyter.

    MPLBACKEND=Agg python tests/documentation/notebooks.py examples/ice.ipynb     # run it and store its outputs

With values after the name, `steps=5 settings='{}'`, the variables of its first code cell get these, and nothing is stored.
"""

import ast
import base64
import contextlib
import io
import json
import os
import sys
import warnings
from pathlib import Path


def code_cells(notebook):
    """The code cells of a notebook in their order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(path, values=None):
    """A notebook with the outputs of its cells as they are now; runs in the folder of the notebook.

    Args:
        path: The file.
        values: Values of variables, set after its first code cell; every one must be a variable of that cell.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    os.chdir(path.parent)
    names = {"__name__": "__main__"}
    for count, cell in enumerate(code_cells(notebook), 1):
        cell["outputs"], cell["execution_count"] = _outputs("".join(cell["source"]), names, count), count
        if count == 1 and values:
            unknown = set(values) - set(names)
            if unknown:
                raise KeyError(f"expected variables of the first code cell, got {sorted(unknown)}")
            names.update(values)
    return notebook


def _outputs(source, names, count):
    """What a cell shows: printed text, the value of its last expression, figures."""
    tree, last, said = ast.parse(source), None, io.StringIO()
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    with contextlib.redirect_stdout(said):
        exec(compile(tree, "<cell>", "exec"), names)  # noqa: S102
        value = eval(compile(last, "<cell>", "eval"), names) if last else None  # noqa: S307
    outputs = []
    if source.rstrip().endswith(";"):  # as in Jupyter: the value is not shown
        value = None
    if said.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": said.getvalue().splitlines(keepends=True)})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_().splitlines(keepends=True)
        outputs.append({"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data})
    return [*outputs, *({"output_type": "display_data", "metadata": {}, "data": {"image/png": png}} for png in _figures())]


def _figures():
    """The open figures of pyplot, closed afterwards."""
    if "matplotlib.pyplot" not in sys.modules:
        return
    from matplotlib import pyplot

    for number in pyplot.get_fignums():
        stream = io.BytesIO()
        pyplot.figure(number).savefig(stream, format="png", dpi=80)
        yield base64.b64encode(stream.getvalue()).decode() + "\n"
    pyplot.close("all")


if __name__ == "__main__":
    warnings.simplefilter("error", UserWarning)
    file = Path(sys.argv[1]).absolute()
    changed = {name: ast.literal_eval(value) for name, _, value in (word.partition("=") for word in sys.argv[2:])}
    done = json.dumps(run(file, changed), indent=1, ensure_ascii=False) + "\n"
    if not changed:
        file.write_text(done, encoding="utf-8")
