"""Schemathesis asks the running api whatever its own document allows, and more: it never breaks, and never answers
anything that the document does not expect.

Bounded and the same every time; FUZZ_EXAMPLES asks more of each route.
"""

import os

from tests.api.documented import operations

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
NAMES = [operation["operationId"] for _, _, operation in operations()]
