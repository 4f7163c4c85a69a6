# SPDX-License-Identifier: GPL-2.0-or-later
"""A trained model on disk: flow weights, base, configuration, and the crystal and state it belongs to."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lammps_bg.config import Config
from lammps_bg.crystal.conditions import Axis, Conditions
from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal
from lammps_bg.errors import CrystalError, RunDirectoryError
from lammps_bg.flow.base import BaseParameters, BoundStep, FittedBase, base_kind
from lammps_bg.flow.conditional import ConditionalBases, FittedBases
from lammps_bg.training import checkpoint


@dataclass
class SavedModel:
    """What model.pt holds.

    Attributes:
        flow: State dict of the flow.
        config: The configuration it was built and trained with.
        fitted: Base at the replicate it was trained on.
        replicate: That replicate, in unit cells.
        state: Temperature, units, script variables and other facts, as plain values.
        conditional: The bases of all conditions, for a conditional model; `fitted` is then that in the middle of them.
    """

    flow: dict[str, Any]
    config: Config
    fitted: FittedBase
    replicate: tuple[int, int, int]
    state: dict[str, Any]
    conditional: FittedBases | None = None


def save_model(path: Path, model: SavedModel, crystal: Crystal) -> None:
    """Write model.pt; see `checkpoint.save` for what can go wrong."""
    fitted = model.fitted
    history = [list(dataclasses.astuple(step)) for step in fitted.history]
    content = {
        "flow": model.flow,
        "base": {"history": history, **fitted.parameters.state_dict(crystal)},
        "config": model.config.model_dump_json(),
        "crystal": json.dumps(describe_crystal(crystal)),
        "replicate": list(model.replicate),
        "state": json.dumps(model.state),
    }
    if model.conditional is not None:
        content["family"] = _stored_bases(model.conditional, crystal)
    checkpoint.save(path, content)


def load_model(path: Path, crystal: Crystal, beta: float) -> SavedModel:
    """Read model.pt for a crystal of the same unit cell, at any replicate.

    Args:
        path: The file.
        crystal: The crystal it is going to be used for, at its own replicate.
        beta: 1 / (k_B T), inverse energy.

    Raises:
        RunDirectoryError: The file is damaged or foreign.
        CrystalError: It was trained on another unit cell.
    """
    content = checkpoint.load(path)
    try:
        stored = json.loads(content["crystal"])
        replicate = tuple(content["replicate"])
        config = Config.model_validate_json(content["config"])
        kind, history = base_kind(config.base.kind), tuple(BoundStep(*entry) for entry in content["base"]["history"])
        parameters = kind.from_state_dict(content["base"], crystal)
        fitted = FittedBase(parameters.base(beta), parameters, history)
        bases = _loaded_bases(kind, content["family"], crystal) if "family" in content else None
        _require_same(stored, describe_crystal(crystal if bases is None else _in_cell(crystal, stored)))
        return SavedModel(content["flow"], config, fitted, replicate, json.loads(content["state"]), bases)
    except (KeyError, ValueError, TypeError) as error:
        raise RunDirectoryError(
            f"expected a complete model in {path}, got one that lacks or garbles a part ({error}); train again"
        ) from None


def _in_cell(crystal: Crystal, stored: dict[str, Any]) -> Crystal:
    """The crystal deformed into the unit cell of a conditional model."""
    return crystal.deformed(np.linalg.solve(crystal.unit.cell, np.array(stored["cell"])))


def reference_cell(path: Path) -> Array:
    """Unit cell that a model's conditions are relative to, shape [3, 3], length units."""
    return np.array(json.loads(checkpoint.load(path)["crystal"])["cell"])


def _stored_bases(fitted: FittedBases, crystal: Crystal) -> dict[str, Any]:
    nodes = [entry.state_dict(crystal) for entry in fitted.bases.parameters]
    return {
        "axes": json.dumps([dataclasses.asdict(axis) for axis in fitted.conditions.axes]),
        "iterated": fitted.iterated,
        "nodes": torch.from_numpy(fitted.bases.nodes),
        **{name: torch.stack([node[name] for node in nodes]) for name in nodes[0]},
    }


def _loaded_bases(kind: type[BaseParameters], stored: dict[str, Any], crystal: Crystal) -> FittedBases:
    columns = {name: column for name, column in stored.items() if name not in ("axes", "iterated", "nodes")}
    nodes = stored["nodes"].numpy()
    parameters = [kind.from_state_dict({name: c[i] for name, c in columns.items()}, crystal) for i in range(len(nodes))]
    conditions = Conditions(tuple(Axis(**entry) for entry in json.loads(stored["axes"])))
    return FittedBases(conditions, ConditionalBases(nodes, parameters), stored["iterated"])


def describe_crystal(crystal: Crystal) -> dict[str, Any]:
    """The unit cell as plain numbers, to compare crystals."""
    unit = crystal.unit
    return {"cell": unit.cell.tolist(), "basis": unit.basis.tolist(), "species": [crystal.labels[t - 1] for t in unit.types]}


def _require_same(trained: dict[str, Any], given: dict[str, Any]) -> None:
    for name, what in (("species", "species"), ("cell", "unit cell"), ("basis", "sites in the unit cell")):
        if name == "species":
            same = trained[name] == given[name]
        else:
            a, b = np.array(trained[name]), np.array(given[name])
            same = a.shape == b.shape and np.allclose(a, b, atol=1e-6 * np.abs(trained["cell"]).max())
        if not same:
            raise CrystalError(
                f"expected the {what} that the model was trained on, {trained[name]}, got {given[name]}; train a model for it"
            )
