"""The clients under the name that they had before they became a distribution of their own, `multitask_client`."""

from multitask_client import *  # noqa: F403
from multitask_client import __all__  # noqa: F401
