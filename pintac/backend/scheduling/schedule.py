"""From a graph and choices to a tile schedule: units as loops, in the order of the units, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pintac.backend.bodies.choices import Choices, Entry
from pintac.backend.bodies.folds import Folds
from pintac.backend.bodies.placement import Placement
from pintac.backend.bodies.tiling import points_together
from pintac.backend.grouping.units import Unit, Units
from pintac.backend.ordering.order import NoOrderError
from pintac.backend.ordering.straight import joined
from pintac.backend.scheduling.kernels import Fused
from pintac.backend.scheduling.loops import Loops
from pintac.backend.scheduling.regions import Effort, Region, Regions
from pintac.backend.tiles.tile import Buffer, Item


@dataclass(frozen=True)
class TileSchedule:
    """The tile schedule of an entry under these choices, its buffers in SRAM without addresses yet.

    `predicted` are the cycles that it should take by the costs that orders are chosen by. `regions` are its loop
    bodies and straight code, `unit_of` its tile buffers. `short`: there was no order in the memory of an earlier one.
    """

    entry: Entry
    choices: Choices
    effort: Effort
    fused: Fused
    placement: Placement
    items: list[Item]
    regions: tuple[Region, ...]
    unit_of: Mapping[Buffer, Unit]
    predicted: int
    short: bool = False

    @property
    def units(self) -> Units:
        """What belongs to the same loop."""
        return self.fused.units

    @property
    def hot(self) -> bool:
        """Whether a longer search would look at any loop body."""
        return any(region.hot for region in self.regions)

    def own(self, in_loops: bool) -> dict[Buffer, Unit]:
        """SRAM of what belongs to one loop body alone, or to straight code."""
        return {b: region.unit for region in self.regions if region.in_loop == in_loops for b in region.own}

    def largest(self, room: str) -> int:
        """Bytes of the largest buffer of the regions that share a room (`Choices.rooms`)."""
        return max((region.largest for region in self.regions if region.room == room), default=0)


def scheduled(entry: Entry, choices: Choices, fused: Fused, effort: Effort) -> TileSchedule:
    """The tile schedule of an entry whose units are `fused` under the same choices. Raises `NoOrderError`."""
    units = fused.units
    bodies = Folds(entry, choices, units, {unit: points_together(choices.tiling, units, unit) for unit in units.units})
    regions = Regions(entry.machine, choices, effort, bodies.unit_of, bodies.tile_of)
    loops = Loops(fused, bodies, regions)
    try:
        items = [item for unit in units.units for item in loops.of_unit(unit)]
    except NoOrderError as error:
        error.reached = regions.cycles
        raise
    found, predicted = tuple(regions.found), regions.cycles
    if effort.moves and effort.straight:
        straight = {region.ops[0]: region.cycles for region in found if region.ops and not region.in_loop}
        items, change = joined(items, entry.machine, effort.moves, effort.warm, straight, predicted)
        predicted += change
    return TileSchedule(entry, choices, effort, fused, bodies, items, found, bodies.unit_of, predicted)
