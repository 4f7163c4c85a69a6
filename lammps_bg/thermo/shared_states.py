# SPDX-License-Identifier: GPL-2.0-or-later
"""Free energies of many states, such as the cells of a table, from one set of chains: all states share the white noise.

The densities of `chains`, pi_(lambda, s)(x) ~ exp(-|x|^2 / 2 + lambda log w_s(x)), belong to one x for all states s (cell, temperature,
parameters of the potential) of a family of flows. A sample of any of them therefore has a weight in every other one, by log w_s(x)
alone: energies without forces. MBAR over all (lambda, s) gives ln Z of every s relative to the flow, ln Z = 0 at lambda = 0 in each,

    f_s = -ln sum_n exp(log w_s(x_n)) / sum_k N_k exp(f_k + lambda_k log w_s(k)(x_n)),

from the draws of the flow, a ladder of couplings in one state, and chains in as few further ones as it takes for every state to overlap
with a sampled one. Draws and chains come in R groups, the same in all densities: leaving out one of them at a time gives the errors,
with the correlations along the chains and between the states.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_bg import parallel
from lammps_bg.thermo.chains import Chains, Latent, Point, block_size
from lammps_bg.thermo.exact import (
    LEAST_OVERLAP,
    ExactBudget,
    Ladder,
    Window,
    WindowSummary,
    are_mixed,
    judge,
    summary_of,
    summary_of_draws,
)
from lammps_bg.thermo.multistate import Grouped, grouped
from lammps_bg.thermo.verdict import AMBER_MAX_SHARE, RED_ESS, RED_OVERLAP, RED_TAIL, Verdict
from lammps_bg.thermo.weights import EstimateError, summarise

Array = NDArray[np.float64]
_STATE_SEED = 15_485_863  # between the seeds of chains in different states
_RETUNING = 8  # steps of chains that come from another state
_FIRST_STEPS = 16
_GROWTH = (1.3, 3.0)  # least and largest factor by which the steps grow at a time
_FORGOTTEN = 3.0  # statistical inefficiencies after which a chain has forgotten its start
_SAFETY = 1.05  # the error aimed at is smaller by this factor
_WITHIN_REACH = 2.0 * RED_OVERLAP  # chains go from a state straight to one that overlaps so much, else up the couplings
_HOP = 0.5  # nearest-neighbour distances
_MOST_PENDING = 1 << 20  # sites that wait for their weights in all states: about 100 MB
_NEXT_STEP = "Raise exact.max_seconds, train longer or over a smaller range, or look at the samples of `lammps-bg sample --exact always` there."


@dataclass(frozen=True)
class SharedState:
    """One state with its draws.

    Attributes:
        latent: Its density of the white noise.
        log_w: Log-weights of draws of the flow, in repeats, shape [R, n]; the same white noise in every state.
        energies: Their potential energies, shape [R, n].
        nearest_distance: Of two atoms, length units.
        pressure: Pressures [n] of displacements [n, N, 3]; None where nobody asks for them.
        pressures: Those of the draws, shape [R, n]; None likewise.
    """

    latent: Latent
    log_w: Array
    energies: Array
    nearest_distance: float
    pressure: Callable[[Array], Array] | None = None
    pressures: Array | None = None


@dataclass
class _Sampled:
    """A density that chains sample.

    Attributes:
        state: Index of its state.
        window: Coupling and chains.
        stride: Steps from one kept sample to the next.
        steps: Indices of the kept steps among those that count.
        log_w: Log-weights of the kept samples in every state, one array [S, n] for each kept step.
        energies: Potential energies likewise.
        pressures: Pressures likewise; nan where nobody asks for them.
        pending: Where the chains of this rank stood at kept steps that have no weights in other states yet.
    """

    state: int
    window: Window
    stride: int = 1
    steps: list[int] = field(default_factory=list)
    log_w: list[Array] = field(default_factory=list)
    energies: list[Array] = field(default_factory=list)
    pressures: list[Array] = field(default_factory=list)
    pending: list[dict[int, Point]] = field(default_factory=list)

    def kept(self, name: str) -> list[Array]:
        """Log-weights, energies or pressures of the kept steps, but for those of the beginning, which the chains' start is not forgotten in."""
        n = len(self.window.records)
        first = min(n // 3, math.ceil(_FORGOTTEN * self.inefficiency))
        table: list[Array] = getattr(self, name)
        return [values for step, values in zip(self.steps, table, strict=False) if step >= first]

    @property
    def inefficiency(self) -> float:
        """Statistical inefficiency of the chains, in steps."""
        n = len(self.window.records)
        return summary_of(self.window, len(self.window.records[0].log_w)).inefficiency if n > 1 else 1.0


@dataclass(frozen=True)
class SharedResult:
    """What the chains say of all states.

    Attributes:
        minus_log_z: -ln Z_u of each state, one number per group (see `repeats.pseudo_values`), shape [R, S].
        energies: Mean potential energies likewise, shape [R, S].
        pressures: Mean pressures likewise, shape [R, S]; nan where nobody asked for them.
        errors: Standard errors of -ln Z_u, shape [S].
        windows: What was sampled: index of the state and summary; the first is that of the draws, with the index of the first ladder.
        coverage: Largest overlap of each state with what was sampled, itself left out, shape [S].
        ladder_overlaps: Overlaps of neighbours on the ladders.
        evaluations: Energies spent by the chains and on the weights in the other states, on all ranks.
        verdict: What to think of it.
    """

    minus_log_z: Array
    energies: Array
    pressures: Array
    errors: Array
    windows: tuple[tuple[int, WindowSummary], ...]
    coverage: Array
    ladder_overlaps: Array
    evaluations: int
    verdict: Verdict


class SharedStates:
    """Chains in as few states as the others can be reached from, until the error wanted in each, or the budget, is reached.

    Everything that decides what is done next follows from the numbers of all chains, which every MPI rank knows.

    Attributes:
        evaluations: Energies spent, on all ranks.
        note: Why no further state is sampled, where it should have been.

    Args:
        states: All states; their draws have equally many repeats R.
        anchor: The state that the first ladder leads to.
        n_chains: Chains of a window; rounded up to at least R and to whole blocks.
        seed: Seed of all random numbers.
    """

    def __init__(self, states: Sequence[SharedState], *, anchor: int, n_chains: int, seed: int) -> None:
        self._states, self._anchor, self._seed = list(states), anchor, seed
        self._n_groups, latent = len(states[0].log_w), states[anchor].latent
        size = block_size(latent.n_sites)
        self.n_chains = size * -(-max(n_chains, self._n_groups) // size)
        self._n_sites = latent.n_sites
        self._sampled: list[_Sampled] = []
        self._ladders: list[list[Window]] = []
        self._seen: dict[int, int] = {}
        self._on_ladder = self._weighed = self._stepped = 0
        self.note = ""

    @property
    def evaluations(self) -> int:
        """Energies spent by the chains and on weights, on all ranks."""
        return self._on_ladder + self._weighed + self._stepped

    # ---- running

    def run(self, budget: ExactBudget, *, tick: Callable[["SharedStates"], None] = lambda shared: None) -> SharedResult:
        """Make steps until the error is reached in every state, or the budget is spent.

        Args:
            budget: When to stop; the error goes for each state.
            tick: Called after each step; may raise to stop.

        Raises:
            EstimateError: The chains do not come to the first state within the budget, or do not overlap with the draws.
        """
        self._ends = time.monotonic() + budget.max_seconds
        self._climb(self._anchor, budget, tick)
        while True:
            self._advance(budget, tick)
            found = self._joined()
            if self._spent(budget) or not self._extended(found, budget, tick):
                return self._result(self._joined())

    def _climb(self, state: int, budget: ExactBudget, tick: Callable[["SharedStates"], None]) -> None:
        """Chains of a state by a ladder from the draws, until they mix; their samples count."""
        own, seed, before = self._states[state], self._seed + _STATE_SEED * state, self._on_ladder
        ladder = Ladder(own.latent, own.log_w.ravel(), n_chains=self.n_chains, nearest_distance=own.nearest_distance, seed=seed)
        entries: list[_Sampled] = []

        def after_step(ladder: Ladder, _progress: float) -> bool:
            self._on_ladder = before + ladder.evaluations
            known = {id(entry.window): entry for entry in entries}
            entries[:] = [known.get(id(window)) or _Sampled(state, window) for window in ladder.windows]
            for entry in entries:
                self._keep(entry)
            tick(self)
            return self._spent(budget)

        left = ExactBudget(
            math.inf, max(0.0, self._ends - time.monotonic()), budget.max_evaluations - self.evaluations
        )  # an infinite error is reached once the chains mix
        ladder.run(left, tick=after_step)
        ladder.result()
        self._sampled += entries
        self._ladders.append([entry.window for entry in entries])
        self._set_strides()

    def _advance(self, budget: ExactBudget, tick: Callable[["SharedStates"], None]) -> None:
        """Steps of every window up to those that are wanted; then weights of what was kept in all states."""
        for entry in self._sampled:
            window = entry.window
            while (window.tuning or len(window.records) < window.wanted) and not self._spent(budget):
                self._stepped += window.chains.leaps * self.n_chains
                window.step()
                self._keep(entry)
                tick(self)
            self._weigh(entry)
        self._set_strides()

    def _keep(self, entry: _Sampled) -> None:
        """Note where the chains stand after a step that counts, at every so manieth."""
        n = len(entry.window.records)
        if n == self._seen.get(id(entry.window), 0):
            return
        self._seen[id(entry.window)] = n
        if n % entry.stride:
            return
        entry.steps.append(n - 1)
        self._weighed += self.n_chains * (len(self._states) - 1)
        entry.pending.append(dict(entry.window.chains.points))
        if len(entry.pending) * self.n_chains * self._n_sites > _MOST_PENDING:
            self._weigh(entry)

    def _set_strides(self) -> None:
        """From here on samples are kept where they are about independent."""
        for entry in self._sampled:
            entry.stride = max(1, round(entry.inefficiency))

    def _extended(self, found: Grouped, budget: ExactBudget, tick: Callable[["SharedStates"], None]) -> bool:
        """Ask for another state or more steps; false where nothing is left to do."""
        if self._add_state(found, budget, tick):
            return not self.note
        error = float(self._errors(found).max()) / self._n_sites * _SAFETY
        if error <= budget.target_error and are_mixed([window for _, window in self._summaries()]):
            return False
        growth = min(max((error / budget.target_error) ** 2, _GROWTH[0]), _GROWTH[1])
        for entry in self._sampled:
            entry.window.wanted = math.ceil(growth * max(entry.window.wanted, len(entry.window.records)))
        return True

    def _add_state(self, found: Grouped, budget: ExactBudget, tick: Callable[["SharedStates"], None]) -> bool:
        """Sample another state where one is not reached from those that are; whether there was one.

        It is the one that overlaps least within reach of the chains, else the nearest one, up a ladder of its own; once all are reached,
        one between two that are sampled and overlap too little.
        """
        coverage, nearest = self._coverage(found)
        own = {entry.state for entry in self._sampled if entry.window.coupling == 1.0}
        short = [s for s in range(len(self._states)) if s not in own and not self._is_reached(found, s, float(coverage[s]))]
        within = [s for s in short if coverage[s] >= _WITHIN_REACH and nearest[s] is not None]
        if within:
            self._move_to(min(within, key=lambda s: float(coverage[s])), nearest)
        elif short:
            try:
                self._climb(max(short, key=lambda s: float(coverage[s])), budget, tick)
            except EstimateError as error:
                self.note = str(error)
        elif (between := self._between(found, coverage, own)) is not None:
            self._move_to(between, nearest)
        else:
            return False
        return True

    def _is_reached(self, found: Grouped, state: int, coverage: float) -> bool:
        """Whether the samples of others are enough for a state: by overlap, and by their weights in it.

        An overlap that is found from one side alone is too large where the other one has a part that no sample has come to; the tail of
        the weights shows it.
        """
        weights = found.weights[state - len(self._states)]
        summary = summarise(np.log(weights[weights > 0.0]))
        heavy = summary.pareto_k > RED_TAIL or summary.max_share > AMBER_MAX_SHARE or summary.ess < RED_ESS
        return coverage >= LEAST_OVERLAP and not heavy

    def _between(self, found: Grouped, coverage: Array, own: set[int]) -> int | None:
        """A state that is not sampled and links two that are better than these overlap; None where there is none, or no need."""
        first = len(found.free_energies) - len(self._states)
        for weak in sorted(own, key=lambda s: float(coverage[s])):
            if coverage[weak] >= LEAST_OVERLAP:
                return None
            link = (
                {
                    s: min(found.overlap(first + s, first + weak), max(found.overlap(first + s, first + o) for o in own - {weak}))
                    for s in set(range(len(self._states))) - own
                }
                if len(own) > 1
                else {}
            )
            best = max(link, key=lambda s: link[s], default=None)
            if best is not None and link[best] > coverage[weak]:
                return best
        return None

    def _move_to(self, state: int, nearest: Sequence[_Sampled | None]) -> None:
        """Chains of a state from where those of the one stand that it overlaps with most."""
        source, latent = nearest[state], self._states[state].latent
        if source is None:
            raise RuntimeError("chains start from chains")
        points = {block: latent.at(point.x) for block, point in source.window.chains.points.items()}
        self._stepped += self.n_chains
        seed, step = self._seed + _STATE_SEED * (len(self._states) + state), source.window.chains.step
        chains = Chains(latent, 1.0, points, seed=seed, step=step)
        wanted = max(_FIRST_STEPS, *(entry.window.wanted for entry in self._sampled))
        self._sampled.append(_Sampled(state, Window(chains, wanted, _RETUNING), source.stride))

    def _spent(self, budget: ExactBudget) -> bool:
        over = time.monotonic() >= self._ends or self.evaluations >= budget.max_evaluations
        return bool(parallel.agreed(over))

    # ---- weights in all states

    def _weigh(self, entry: _Sampled) -> None:
        """Log-weights, energies and pressures in all states of what was kept of a density; each rank those of its chains."""
        n = len(entry.pending)
        if not parallel.agreed(n):
            return
        blocks = {block: [points[block] for points in entry.pending] for block in (entry.pending[0] if n else {})}
        rows = {block: self._everywhere(entry.state, points) for block, points in blocks.items()}
        entry.pending.clear()
        every: dict[int, Array] = {}
        for part in parallel.gathered(rows):
            every |= part
        together = np.concatenate([every[block] for block in sorted(every)], -1)  # [3, S, steps, chains]
        for store, table in zip((entry.log_w, entry.energies, entry.pressures), together, strict=True):
            store += list(table.transpose(1, 0, 2))

    def _everywhere(self, own: int, points: Sequence[Point]) -> Array:
        """Log-weights, energies and pressures of the chains of one block at several steps in all states, [3, S, steps, chains]."""
        x = torch.cat([point.x for point in points])
        table = []
        for index, state in enumerate(self._states):
            if index == own:
                columns = [torch.cat([getattr(p, name) for p in points]) for name in ("log_w", "energies", "displacements")]
            else:
                columns = list(state.latent.weighed(x))
            table.append([columns[0].numpy(), columns[1].numpy(), _pressures(state, columns[2])])
        return np.array(table).transpose(1, 0, 2).reshape(3, len(self._states), len(points), -1)

    def _joined(self) -> Grouped:
        """MBAR over everything so far: the draws, the windows below lambda = 1, and every state, sampled or not."""
        rows = self._rows()
        log_w = [np.array([state.log_w.ravel() for state in self._states])]
        groups = [np.repeat(np.arange(self._n_groups), self._states[0].log_w.shape[1])]
        counts = [log_w[0].shape[1]]
        for entry, _, _ in rows:
            kept = entry.kept("log_w") if entry else []
            counts.append(len(kept) * self.n_chains)
            if kept:
                log_w.append(np.concatenate(kept, 1))
                groups.append(np.tile(self._group_of_chain(), len(kept)))
        every = np.concatenate(log_w, 1)
        u = np.zeros((1 + len(rows), every.shape[1]))
        for row, (_, coupling, state) in enumerate(rows, 1):
            u[row] = -coupling * every[state]
        return grouped(u, counts, np.concatenate(groups))

    def _rows(self) -> list[tuple[_Sampled | None, float, int]]:
        """Densities in the order of MBAR, after that of the draws: what samples them, coupling, and state."""
        below = [(entry, entry.window.coupling, entry.state) for entry in self._sampled if entry.window.coupling < 1.0]
        tops = {entry.state: entry for entry in self._sampled if entry.window.coupling == 1.0}
        return [*below, *((tops.get(state), 1.0, state) for state in range(len(self._states)))]

    def _group_of_chain(self) -> NDArray[np.int64]:
        """Group of each chain, shape [n_chains]."""
        return np.arange(self.n_chains) * self._n_groups // self.n_chains

    def _coverage(self, found: Grouped) -> tuple[Array, list[_Sampled | None]]:
        """Largest overlap of each state with another sampled density, and the chains that it overlaps with most."""
        rows = self._rows()
        first = 1 + len(rows) - len(self._states)
        sampled = [(row, entry) for row, (entry, _, _) in enumerate(rows, 1) if entry and entry.log_w]
        coverage, nearest = [], list[_Sampled | None]()
        for state in range(len(self._states)):
            overlaps = [(found.overlap(first + state, row), entry) for row, entry in sampled if row != first + state]
            coverage.append(max([found.overlap(first + state, 0), *(value for value, _ in overlaps)]))
            nearest.append(max(overlaps, key=lambda pair: pair[0])[1] if overlaps else None)
        return np.array(coverage), nearest

    # ---- what was found

    def _result(self, found: Grouped) -> SharedResult:
        """The numbers of all states from everything so far."""
        first = len(found.free_energies) - len(self._states)
        log_z = found.free_energy_repeats()[:, first:]
        energies = [found.mean_repeats(first + s, self._observable(s, "energies")) for s in range(len(self._states))]
        pressures = [found.mean_repeats(first + s, self._observable(s, "pressures")) for s in range(len(self._states))]
        windows = self._summaries()
        coverage, _ = self._coverage(found)
        steps = self._ladder_overlaps(found)
        start = summary_of_draws(self._states[self._anchor].log_w.ravel())
        return SharedResult(
            log_z, np.stack(energies, 1), np.stack(pressures, 1), self._errors(found), ((self._anchor, start), *windows), coverage, steps,
            self.evaluations, self._judge([start, *(w for _, w in windows)], np.concatenate((coverage, steps))),
        )  # fmt: skip

    def _errors(self, found: Grouped) -> Array:
        """Standard errors of -ln Z_u, shape [S]."""
        numbers = found.free_energy_repeats()[:, -len(self._states) :]
        return np.asarray(numbers.std(0, ddof=1) / math.sqrt(self._n_groups))

    def _summaries(self) -> list[tuple[int, WindowSummary]]:
        """State and summary of every density that chains sample."""
        usable = [entry for entry in self._sampled if len(entry.window.records) > 1 and entry.log_w]
        return [(entry.state, summary_of(entry.window, self.n_chains)) for entry in usable]

    def _observable(self, state: int, name: str) -> Array:
        """An observable of all samples in a state, in the order of MBAR, shape [n]."""
        own = getattr(self._states[state], name)
        draws = np.full(self._states[state].log_w.size, np.nan) if own is None else own.ravel()
        parts = [np.concatenate([table[state] for table in e.kept(name)]) for e, _, _ in self._rows() if e and e.log_w]
        return np.concatenate([draws, *parts])

    def _ladder_overlaps(self, found: Grouped) -> Array:
        """Overlaps of neighbours on the ladders, from the draws up."""
        place = {id(entry.window): row for row, (entry, _, _) in enumerate(self._rows(), 1) if entry}
        overlaps = []
        for ladder in self._ladders:
            rows = [0, *(place[id(window)] for window in ladder)]
            overlaps += [found.overlap(low, high) for low, high in zip(rows[:-1], rows[1:], strict=True)]
        return np.array(overlaps)

    def _judge(self, windows: list[WindowSummary], overlaps: Array) -> Verdict:
        """As for one crystal, with the state of the fewest independent samples in its place."""
        tops = [e for e in self._sampled if e.window.coupling == 1.0 and len(e.window.records) > 1]
        hops = [float((e.window.series("furthest") > _HOP * self._states[e.state].nearest_distance).mean()) for e in tops]
        ordered = sorted(windows, key=lambda w: (w.coupling, -w.n_samples / w.inefficiency))
        verdict = judge(ordered, overlaps, max(hops))
        return verdict if verdict.colour == "green" else replace(verdict, next_step=_NEXT_STEP)


def _pressures(state: SharedState, displacements: Tensor) -> Array:
    """Pressures of displacements, nan where nobody asks for them, shape [n]."""
    if state.pressure is None:
        return np.full(len(displacements), np.nan)
    return state.pressure(displacements.numpy())
