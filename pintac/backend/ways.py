"""Ways to fit an entry: one that does not work may leave others."""

from __future__ import annotations

from pintac.errors import DoesNotFitError


class WayError(DoesNotFitError):
    """An entry cannot be scheduled under the choices at hand; under others it may be."""
