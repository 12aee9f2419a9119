"""coi: AI coding tools in Incus system containers."""

__version__ = "0.1.0"
