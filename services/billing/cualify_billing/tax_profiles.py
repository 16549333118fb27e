"""Who sells and who buys, to the tax office: an org's profile, ours, and which state the supply is in."""

from dataclasses import dataclass
from uuid import UUID

from cualify_billing import gst
from cualify_billing.gst import Tax
from cualify_shared.database import Connection


@dataclass(frozen=True, slots=True)
class TaxProfile:
    """A customer. Without a GSTIN they are not registered."""

    name: str
    address: str
    state_code: str
    gstin: str | None


@dataclass(frozen=True, slots=True)
class Seller:
    """Whoever runs this platform, and at which rate and code the service is taxed."""

    name: str
    address: str
    gstin: str
    sac: str
    rate_percent: int

    def place_of_supply(self, buyer: TaxProfile | None) -> str:
        """The buyer's state; of an unknown buyer, ours."""
        return self.gstin[:2] if buyer is None else buyer.state_code

    def tax_in(self, total_paise: int, buyer: TaxProfile | None) -> Tax:
        """The tax that an amount includes for this buyer."""
        within = self.place_of_supply(buyer) == self.gstin[:2]
        return gst.included(total_paise, rate_percent=self.rate_percent, within_state=within)


PROFILE = """
SELECT name, address, state_code, gstin
FROM tax_profiles
WHERE org_id = $1
"""


async def tax_profile(connection: Connection, org_id: UUID) -> TaxProfile | None:
    """What an org has said of itself; None where it has not yet."""
    row = await connection.fetchrow(PROFILE, org_id)
    return None if row is None else TaxProfile(**row)


SET_PROFILE = """
INSERT INTO tax_profiles (org_id, name, address, state_code, gstin)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (org_id) DO UPDATE SET
    name = excluded.name, address = excluded.address, state_code = excluded.state_code, gstin = excluded.gstin,
    changed_at = clock_timestamp()
"""


async def set_tax_profile(connection: Connection, org_id: UUID, profile: TaxProfile) -> None:
    """Counts for documents from now on; those that were issued keep what they say."""
    await connection.execute(SET_PROFILE, org_id, profile.name, profile.address, profile.state_code, profile.gstin)
