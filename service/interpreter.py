"""Python itself, told that one of its threads runs an engine's steps and must not be held up."""

import gc
import sys

# The engine's thread lets go of Python's lock in every kernel. At the default of 5 ms whatever
# another thread does meanwhile would hold it up; so turns are shorter.
SWITCH_INTERVAL_S = 0.0002


def favour_steps() -> None:
    """Call once all is loaded: what is there by now is never looked through for garbage again."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
