"""The one error of a backend that cannot run here."""


class Unavailable(RuntimeError):
    """A backend cannot run here; the message says why and what to do. "auto" then takes the next one."""
