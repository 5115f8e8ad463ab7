"""What can go wrong, and the exit code of each.

::

    VrestoreError              1   some files failed
    ├── Fault                  1   a fault of vrestore's own
    ├── UsageError             2   the command contradicts itself
    ├── InputError             3   the film cannot be read, or not whole
    ├── ModelError             4   unknown model, wrong or missing weights
    ├── OutOfMemory            5   nothing smaller is left to try
    ├── OutputError            6   no space, not writable, exists already, or not verified
    └── Interrupted          130   Ctrl-C, or a polite kill

A message says what, where (file, stream, frame, time), and what to do.
"""

import errno


class VrestoreError(Exception):
    """Base of every error that a user can cause or mend; ``exit_code`` is the process's."""

    exit_code = 1


class Fault(VrestoreError):
    """What nobody foresaw: vrestore's own mistake."""


class UsageError(VrestoreError):
    """The command or the options contradict themselves or name something unknown."""

    exit_code = 2


class InputError(VrestoreError):
    """The input is missing, holds no video, or breaks off."""

    exit_code = 3


class ModelError(VrestoreError):
    """A model name, a checkpoint or its contents are wrong."""

    exit_code = 4


class OutOfMemory(VrestoreError):
    """The frames do not fit the device's memory."""

    exit_code = 5


class OutputError(VrestoreError):
    """The output cannot be written or did not turn out as it must."""

    exit_code = 6


class Interrupted(VrestoreError):
    """Somebody ended the run."""

    exit_code = 130


def told(error: BaseException) -> VrestoreError:
    """The error as a user is told of it, whatever was raised."""
    if isinstance(error, VrestoreError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted; nothing was left under the output's name")
    if is_out_of_memory(error):
        return OutOfMemory(
            "out of memory; end other programs, give --chunk 4 --lookahead 4, or a smaller picture"
        )
    if isinstance(error, OSError) and error.strerror:
        where = error.filename if error.filename is not None else "standard output"
        return OutputError(f"{where}: {error.strerror}")
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return Fault(f"{what}; this is a fault in vrestore: run with --debug and report what it says")


_NO_ROOM = (
    "allocate memory", "out of memory", "not enough memory", "STATUS_ALLOC_FAILED",
    "can't start new thread", "failed to map segment",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Python's, the system's, torch's on a GPU, and on a CPU what torch, oneDNN or a library's
    loader say of it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = str(error)
    return (
        bool(kinds & {"MemoryError", "OutOfMemoryError"})
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (
            isinstance(error, RuntimeError | ImportError)
            and (said == "could not create a primitive" or any(words in said for words in _NO_ROOM))
        )
    )
