"""The hash behind the keys of runs and evaluations."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(payload: Mapping[str, Any]) -> str:
    """Return sixteen hexadecimal digits that depend on every name and value, and not on their order."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
