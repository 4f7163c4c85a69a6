# SPDX-License-Identifier: GPL-2.0-or-later
"""What the training loop trains on: one thermodynamic state, or a family of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from lammps_bg.crystal.structure import Array
from lammps_bg.flow.bijection import Flow
from lammps_bg.flow.generator import Generator, mixed
from lammps_bg.flow.polynomial import Context
from lammps_bg.training.target import ExactTarget, MixedTarget, SoftenedTarget, TrainingTarget

_EVALUATED = 4  # states of a family that an evaluation looks at


Join = Callable[[Sequence[SoftenedTarget], Sequence[int], Sequence[float]], TrainingTarget]


@dataclass
class State:
    """A generator and its targets in one thermodynamic state.

    Attributes:
        generator: Prior and flow.
        softened: Target of the objective.
        exact: Target of weights.
        known: What is known of the logarithm of its integral, relative to exp(-beta E_0): states are compared relative to it.
    """

    generator: Generator
    softened: SoftenedTarget
    exact: ExactTarget
    known: float = 0.0


class Task(ABC):
    """The states of a training.

    Args:
        first: The only state, or that in the middle of the conditions.
    """

    def __init__(self, first: State) -> None:
        self.first = first

    @property
    def flow(self) -> Flow:
        """What is trained."""
        return self.first.generator.flow

    @property
    def n_sites(self) -> int:
        """Number of atoms N."""
        return len(self.first.generator.prior.base.amplitude)

    @abstractmethod
    def draw(self, n: int, random: torch.Generator) -> Tensor:
        """Contexts of a batch, shape [n, C]."""

    @abstractmethod
    def at(self, contexts: Tensor) -> tuple[Generator, TrainingTarget]:
        """Generator and target of a batch with these contexts, or of a part of one."""

    @abstractmethod
    def evaluated(self) -> Iterator[State]:
        """The states in which the model is evaluated, the first one first."""


class SingleState(Task):
    """Training in one state: contexts are empty.

    Args:
        generator: Prior and flow.
        softened: Target of the objective.
        exact: Target of the evaluations.
    """

    def __init__(self, generator: Generator, softened: SoftenedTarget, exact: ExactTarget) -> None:
        super().__init__(State(generator, softened, exact))

    def draw(self, n: int, random: torch.Generator) -> Tensor:
        """Empty contexts, shape [n, 0]."""
        return torch.empty(n, 0)

    def at(self, contexts: Tensor) -> tuple[Generator, TrainingTarget]:
        """The one generator and its target."""
        return self.first.generator, self.first.softened

    def evaluated(self) -> Iterator[State]:
        """The one state."""
        yield self.first


class ManyStates(Task):
    """Training over a box of conditions: a batch holds some states of a fixed pool, each with several samples in a row.

    States are made when they are first wanted and kept: making one costs about as much as a few samples.

    Args:
        pool: Contexts of the states, shape [m, C].
        make: Makes the state of a context.
        states_per_batch: States of a batch.
        join: Makes one target of several, from them, their counts and the offsets of their shifts.
    """

    def __init__(self, pool: Array, make: Callable[[Context], State], *, states_per_batch: int, join: Join = MixedTarget) -> None:
        self.pool, self._make, self._states_per_batch = torch.from_numpy(pool), make, states_per_batch
        self._join = join
        self._known: dict[Context, State] = {}
        super().__init__(self.state((0.0,) * pool.shape[1]))

    def state(self, context: Context) -> State:
        """The state of a context.

        Args:
            context: Coordinates in [-1, 1].
        """
        if context not in self._known:
            self._known[context] = self._make(context)
        return self._known[context]

    def draw(self, n: int, random: torch.Generator) -> Tensor:
        """Contexts of a batch, equal ones in a row, shape [n, C]."""
        k = min(n, self._states_per_batch, len(self.pool))
        picked = torch.randperm(len(self.pool), generator=random)[:k]
        return self.pool[picked[torch.arange(n) * k // n]]

    def at(self, contexts: Tensor) -> tuple[Generator, TrainingTarget]:
        """Generator and target of contexts with equal ones in a row."""
        rows = [(context, len(list(same))) for context, same in groupby(map(tuple, contexts.tolist()))]
        states, counts = [self.state(context) for context, _ in rows], [n for _, n in rows]
        offsets = [self.first.known - state.known for state in states]
        return mixed([s.generator for s in states], counts), self._join([s.softened for s in states], counts, offsets)

    def evaluated(self) -> Iterator[State]:
        """The centre and the first states of the pool."""
        yield self.first
        for context in self.pool[: _EVALUATED - 1].tolist():
            yield self.state(tuple(context))
