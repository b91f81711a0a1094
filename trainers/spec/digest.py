"""The hash behind the keys of runs and evaluations."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(payload: Mapping[str, Any]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of ``payload``, whatever the order of its names."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
