"""Profiles by name."""

from eman.platform.errors import named
from eman.sweeps.profiles.cifar10 import CIFAR10
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.sweeps.profiles.imagenette import IMAGENETTE
from eman.sweeps.profiles.mini import MINI
from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.quick import QUICK
from eman.sweeps.profiles.smoke import SMOKE
from eman.sweeps.profiles.stl10 import STL10

#: Every profile. To add one, write a file like its neighbours and list it here.
PROFILES = {profile.name: profile for profile in (SMOKE, QUICK, MINI, CIFAR10, STL10, IMAGENETTE, IMAGENET)}


def profile_named(name: str) -> Profile:
    """Return the profile of that name, or raise `UserError`."""
    return named("profile", name, PROFILES)
