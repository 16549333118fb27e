"""What billing is told by its environment: nothing beyond what every service is."""

from cualify_shared.settings import ServiceSettings


class BillingSettings(ServiceSettings):
    """See the table in README."""
