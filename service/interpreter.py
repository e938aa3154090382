"""Python itself, told what it must not hold up: an engine's steps, an api's answers."""

import gc
import sys

# The engine's thread lets go of Python's lock in every kernel. At the default of 5 ms whatever
# another thread does meanwhile would hold it up; so turns are shorter.
SWITCH_INTERVAL_S = 0.0002


def favour_steps() -> None:
    """Call once all is loaded, in a process whose thread runs an engine's steps."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_loaded()


def keep_loaded() -> None:
    """Call once all is loaded: what is there by now is never looked through for garbage again."""
    gc.collect()
    gc.freeze()
