# SPDX-License-Identifier: GPL-2.0-or-later
"""Strict typed configuration: one TOML file, overridden by --set; unknown keys are errors that name the closest key."""

import difflib
import functools
import json
import logging
import sys
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from lammps_bg.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

log = logging.getLogger(__name__)
PositiveInt = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] < ends[1]:
        raise ValueError("the low end must lie below the high end")
    return ends


@functools.cache
def _hint(text: str) -> None:
    """Tell once, in one line, what has another name now."""
    log.warning("%s", text)


def _files_of(folder: str) -> list[str]:
    """What can be chosen by the name of its file in a folder of the package; found without loading it."""
    return sorted(file.stem for file in (Path(__file__).parent / folder).glob("*.py") if file.stem != "__init__")


def _energy_source(name: str) -> str:
    """A file of potentials/sources, or auto."""
    if name == "native":
        _hint("energy.source=native is called torch now")
        name = "torch"
    known = ["auto", *_files_of("potentials/sources")]
    if name not in known:
        listed = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
        raise PydanticCustomError("energy_source", "Input should be {listed}", {"listed": listed})
    return name


def _base_kind(name: str) -> str:
    """A file of flow/bases."""
    known = _files_of("flow/bases")
    if name not in known:
        raise PydanticCustomError("base_kind", "Input should be {listed}", {"listed": " or ".join(map(repr, known))})
    return name


def _earlier_choice(name: str | None) -> str | None:
    """A result that earlier versions kept in the configuration of a run."""
    if name is not None:
        _hint(
            "energy.chosen is no setting: what energy.source=auto came to is kept in provenance.json; it is read in runs of earlier versions"
        )
    return "torch" if name == "native" else name


class EnergyConfig(_Block):
    """What evaluates the energies of training and sampling."""

    source: Annotated[str, AfterValidator(_energy_source)] = Field(
        "auto", description="lammps, or torch: the same potential there, for some pair styles; auto: the fastest of them"
    )
    chosen: Annotated[Literal["lammps", "native"] | None, AfterValidator(_earlier_choice)] = Field(None, exclude=True)
    judge: Literal["none", "lammps"] = Field(
        "none", description="lammps: LAMMPS evaluates all samples again, for the final weights"
    )


class BaseConfig(_Block):
    """The Gaussian reference crystal."""

    kind: Annotated[str, AfterValidator(_base_kind)] = Field(
        "phonon", description="phonon crystal, or einstein: independent atoms on springs"
    )
    iterations: Annotated[int, Field(ge=0)] = Field(
        10, description="most self-consistent iterations; 0 keeps the harmonic crystal"
    )
    pilot_steps: Annotated[int, Field(ge=0)] = Field(
        100,
        description="training steps tried on the harmonic and on the self-consistent crystal before the better one is used; 0: no trial",
    )
    n_samples: Annotated[int, Field(ge=50)] = Field(
        1000, description="most configurations for each iteration; as few as their noise allows"
    )


class FlowConfig(_Block):
    """The learned bijection."""

    kind: Literal["sublattice", "augmented", "global"] = Field(
        "sublattice", description="architecture: ours, the published one, or the published one with attention over all atoms"
    )
    n_neighbours: PositiveInt | None = Field(
        None, description="lattice neighbours read by a site; none: whole shells that hold 12"
    )
    n_bins: Annotated[int, Field(ge=2, le=64)] = Field(16, description="augmented, global: bins of each spline")
    spline_range: Positive = Field(6.0, description="augmented, global: half range of the splines in thermal amplitudes")
    width: PositiveInt | None = Field(
        None, description="hidden width of the networks; none: 64 for sublattice, 32 for augmented and global"
    )
    n_sweeps: PositiveInt = Field(3, description="sublattice: sweeps over all colours")
    n_layers: PositiveInt = Field(4, description="augmented, global: layers of two couplings each")
    n_frequencies: PositiveInt = Field(4, description="augmented, global: Fourier frequencies of each coordinate")

    @model_validator(mode="after")
    def _require_heads(self) -> "FlowConfig":
        if self.kind == "global" and self.width is not None and self.width % 4:
            raise ValueError("flow.kind=global needs a flow.width that is a multiple of its 4 heads")
        return self


def _objective(name: object) -> object:
    """An objective by its name of today."""
    if name == "usual":
        _hint("train.objective=usual is called reparametrised now")
    return "reparametrised" if name == "usual" else name


class TrainConfig(_Block):
    """The training loop."""

    objective: Annotated[Literal["path", "reparametrised"], BeforeValidator(_objective)] = Field(
        "path", description="reverse KL with path gradients, or with the reparametrised gradient"
    )
    steps: Annotated[int, Field(ge=0)] = Field(1000, description="steps; 0 leaves the flow the identity")
    max_seconds: Positive | None = Field(
        None, description="wall-clock budget in seconds, none: no limit; the learning rate falls with whichever ends first"
    )
    batch_size: PositiveInt = Field(64, description="samples for each step")
    sites_at_once: PositiveInt | None = Field(
        None,
        description="sites x samples whose activations are held at a time, larger batches go in pieces; none: 65536 for sublattice (6 kB each), "
        "4096 for augmented and global (130 kB each)",
    )
    optimiser: Literal["soap", "adam"] = Field(
        "soap", description="Adam in the eigenbasis of the gradient's covariances, or Adam"
    )
    learning_rate: Positive | None = Field(
        None, description="largest learning rate, dimensionless; none: 0.01 for soap, 0.004 for adam"
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(50, description="steps of linear warm-up")
    clip_norm: Positive = Field(
        1.0, description="largest norm of the gradient of the loss (kT per atom) in the dimensionless weights"
    )
    softening: Positive = Field(6.0, description="energies above E_0 + softening N kT grow only logarithmically in training")
    evaluate_every: PositiveInt = Field(100, description="steps between evaluations with exact energies")
    evaluate_samples: Annotated[int, Field(ge=16)] = Field(128, description="samples of such an evaluation")
    checkpoint_seconds: Positive = Field(30.0, description="seconds between checkpoints")


Range = Annotated[tuple[float, float], AfterValidator(_rising)]


class ConditionConfig(_Block):
    """What a model depends on besides the displacements; every range is that of the training. None of them: one state, as before."""

    volume: Range | None = Field(
        None, description="[low, high] of ln V/V0, dimensionless, V0 the volume of the script's cell; none: fixed"
    )
    c_over_a: Range | None = Field(
        None, description="[low, high] of the change of ln c/a at constant volume, dimensionless; none: fixed"
    )
    b_over_a: Range | None = Field(
        None, description="[low, high] of the change of ln b/a at constant volume, dimensionless; none: fixed"
    )
    shear: Range | None = Field(
        None, description="[low, high] of the changes of the tilts yz/lz, xz/lz and xy/ly, dimensionless; none: fixed"
    )
    temperature: Range | None = Field(None, description="[low, high] in the script's temperature unit; none: fixed")
    parameters: dict[str, Range] = Field(
        {},
        description="[low, high] by name of LAMMPS variables that the script's potential uses, in its units, such as { rc = [2.2, 2.7] }",
    )
    pool: Literal[16, 32, 64, 128, 256, 512, 1024] = Field(
        128, description="states of the training, spread evenly over the ranges"
    )
    states_per_batch: PositiveInt = Field(16, description="of them in one batch, with batch_size / states_per_batch samples each")
    base_samples: Annotated[int, Field(ge=50)] = Field(
        300, description="most configurations of each iteration in the fit of a base, at each point of the conditions"
    )


class SampleConfig(_Block):
    """Drawing from the trained flow."""

    n_samples: Annotated[int, Field(ge=2)] = Field(4096, description="samples")
    n_dump: Annotated[int, Field(ge=0)] = Field(512, description="samples written to samples.dump.gz (all are in samples.csv)")
    n_resample: Annotated[int, Field(ge=0)] = Field(0, description="frames of an equal-weight trajectory, resampled.dump.gz")
    picture: bool = Field(True, description="draw samples.png with OVITO, where OVITO and a Vulkan driver are installed")
    batch_size: PositiveInt | None = Field(None, description="samples drawn together; none: bounded by memory")


class ExactConfig(_Block):
    """Exact samples by chains of Hamiltonian Monte Carlo in the white noise behind the flow."""

    mode: Literal["auto", "always", "never"] = Field(
        "auto", description="chains where the weights of the draws are not beyond doubt, always, or never (also: --exact)"
    )
    chains: PositiveInt = Field(
        16, description="chains of each window, rounded up to whole batches; for more MPI ranks than batches take more chains"
    )
    max_seconds: Positive = Field(1800.0, description="wall-clock budget of the chains in seconds")
    max_evaluations: PositiveInt | None = Field(None, description="budget of the chains in energy evaluations; none: no limit")
    n_dump: Annotated[int, Field(ge=0)] = Field(512, description="frames of equal weight written to exact.dump.gz")
    n_independent: Annotated[int, Field(ge=0)] = Field(
        0, description="independent configurations that the chains have to make, beside the error asked for; 0: no such number"
    )


class EstimateConfig(_Block):
    """Free energies and observables."""

    target_error: Positive = Field(
        1e-4, description="standard error of beta F/N, in kT per atom, at which chains are long enough"
    )

    n_bootstraps: Annotated[int, Field(ge=50)] = Field(1000, description="bootstrap resamplings for errors")
    length_scale: Positive | None = Field(
        None,
        description="Lambda of the absolute free energy in the script's length unit; none: the script's variable Lambda, sigma, or de Broglie",
    )
    marginal_draws: PositiveInt = Field(200, description="augmented: auxiliary draws M of the marginal density")
    marginal_samples: Annotated[int, Field(ge=2)] = Field(256, description="augmented: samples on which it is evaluated")
    rdf_samples: Annotated[int, Field(ge=0)] = Field(256, description="samples for radial distribution, pressure and structures")
    report: bool = Field(True, description="write report.html at the end, where matplotlib is installed")


class MdConfig(_Block):
    """Reference molecular dynamics."""

    timestep: Positive | None = Field(
        None, description="time step in the script's time unit; none: the script's, or LAMMPS' default"
    )
    damp: Positive | None = Field(
        None, description="damping time of the thermostat in the script's time unit; none: 100 time steps"
    )
    pressure_damp: Positive | None = Field(
        None, description="npt: damping time of the barostat in the script's time unit; none: 1000 time steps"
    )
    cell: Literal["iso", "aniso", "tri"] = Field("iso", description="npt: how the cell may change, as in LAMMPS' fix npt")
    n_frames: Annotated[int, Field(ge=50)] = Field(1000, description="nvt, npt: independent frames wanted")
    window_frames: Annotated[int, Field(ge=50)] = Field(250, description="mbar: fewest independent frames in each lambda window")
    target_error: Positive = Field(
        1e-3, description="mbar: standard error of beta F/N, in kT per atom, at which the windows are long enough"
    )
    sample_every: PositiveInt | None = Field(None, description="steps between frames; none: half the damping time")
    max_steps: PositiveInt = Field(5_000_000, description="most steps of one trajectory")
    replicas: PositiveInt = Field(1, description="nvt, npt: independent trajectories, shared out among the MPI ranks")
    n_dump: Annotated[int, Field(ge=0)] = Field(512, description="independent frames written to md.dump.gz")


class GibbsConfig(_Block):
    """Gibbs free energies from a conditional model."""

    n_samples: Annotated[int, Field(ge=16)] = Field(256, description="samples for each cell and repeat")
    n_repeats: Annotated[int, Field(ge=3)] = Field(8, description="independent repeats, from whose scatter the errors come")
    n_volumes: Annotated[int, Field(ge=5)] = Field(
        9, description="volumes at which F is evaluated; 5 of them where the shape is free, too"
    )


class Config(_Block):
    """Everything beside the input script and the thermodynamic state."""

    seed: Annotated[int, Field(ge=0, lt=2**62)] = Field(1, description="seed of every random number")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where the flow and energies in torch run; auto: on a GPU where torch finds one"
    )
    energy: EnergyConfig = EnergyConfig()
    base: BaseConfig = BaseConfig()
    flow: FlowConfig = FlowConfig()
    train: TrainConfig = TrainConfig()
    condition: ConditionConfig = ConditionConfig()
    sample: SampleConfig = SampleConfig()
    exact: ExactConfig = ExactConfig()
    estimate: EstimateConfig = EstimateConfig()
    md: MdConfig = MdConfig()
    gibbs: GibbsConfig = GibbsConfig()


def load_config(path: Path | None = None, overrides: tuple[str, ...] = (), start: Config | None = None) -> Config:
    """Defaults (or `start`), then a TOML file, then `key=value` overrides such as `train.steps=5000`.

    Raises:
        ConfigError: A file, key or value is not usable.
    """
    values = start.model_dump() if start else {}
    if path is not None:
        _merge(values, _read_toml(path))
    of_file = deepcopy(values)
    for text in overrides:
        _merge(values, _override(text))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        where = "" if path is None or _is_valid(of_file) else f" in {path}"
        raise ConfigError(_explain(error, where)) from None


def _is_valid(values: dict[str, Any]) -> bool:
    try:
        Config.model_validate(values)
    except ValidationError:
        return False
    return True


def known_keys() -> dict[str, tuple[Any, str]]:
    """Every key with its default and description."""
    keys: dict[str, tuple[Any, str]] = {}
    for name, field in Config.model_fields.items():
        if isinstance(field.default, _Block):
            for inner, entry in type(field.default).model_fields.items():
                if not entry.exclude:
                    keys[f"{name}.{inner}"] = (entry.default, entry.description or "")
        else:
            keys[name] = (field.default, field.description or "")
    return keys


def to_toml(config: Config) -> str:
    """The resolved configuration as a TOML file with every key explained; unset keys are comments."""
    lines = ["# lammps-bg configuration, every key"]
    described = known_keys()
    for name, value in config.model_dump().items():
        if isinstance(value, dict):
            lines.append(f"\n[{name}]")
            lines += [_toml_line(key, inner, described[f"{name}.{key}"][1]) for key, inner in value.items()]
        else:
            lines.append(_toml_line(name, value, described[name][1]))
    return "\n".join(lines) + "\n"


def _toml_line(key: str, value: Any, description: str) -> str:  # noqa: ANN401
    if value is None:
        return f"# {key} =   # {description}"
    return f"{key} = {_quote(value)}  # {description}"


def _quote(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_quote(key)} = {_quote(inner)}" for key, inner in value.items()) + " }" if value else "{}"
    return json.dumps(value)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"expected a readable TOML file, got {path} ({error.strerror}); check -config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected TOML in {path}, got something else ({error}); see `lammps-bg config`") from None


def _override(text: str) -> dict[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"expected --set key=value such as train.steps=5000, got '{text}'")
    value = value.strip()
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word such as einstein
    result: Any = parsed
    for part in reversed(key.strip().split(".")):
        result = {part: result}
    return result


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _explain(error: ValidationError, where: str) -> str:
    """One sentence for the first thing that is wrong."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = list(known_keys())
        same_name = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
        close = same_name or difflib.get_close_matches(key, known, 1, 0.4)
        meant = f"did you mean '{close[0]}'" if close else "see `lammps-bg config`"
        advice = meant + (", or is it of a later version of lammps-bg?" if where else "?" if close else "")
        return f"expected a known configuration key{where}, got '{key}'; {advice}"
    if first["type"] == "model_type":
        inner = next(known for known in known_keys() if known.startswith(f"{key}."))
        return f"expected a key inside the block '{key}'{where}, such as {inner}, got {key} = {first['input']!r}; see `lammps-bg config`"
    return f"expected a valid value for '{key}'{where}, got {first['input']!r} ({first['msg'].lower()}); see `lammps-bg config`"
