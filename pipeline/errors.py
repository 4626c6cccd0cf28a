"""Every exception this project raises on purpose, and the exit code a job turns it into.

PipelineError
├── ConfigError       a run file, an override or a path is wrong; nothing was started (exit 2)
├── DataError         data breaks its contract: a bad shard, too many failures (exit 4)
│   └── CheckpointError   weights or a checkpoint do not match their manifest
├── QualityError      a configured quality gate failed (exit 3)
├── StorageError      a store is full or unreachable; nothing is half-written (exit 75)
├── BusyError         another run holds the folder, or the machine is too busy (exit 75)
├── StalledError      a worker hangs; all that was done is kept (exit 75)
└── PreemptedError    asked to stop; all that was done is kept (exit 75)

A message states the value, the rule, the numbers in it and the remedy. A bad *sample* is no
exception: it is a row with a ``drop_reason``, counted in the manifest.
"""

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_QUALITY = 3
EXIT_PARTIAL = 4
EXIT_LATER = 75


class PipelineError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = EXIT_PARTIAL


class ConfigError(PipelineError):
    """A run file, an override or a path is wrong; raised before any expensive second."""

    exit_code = EXIT_USAGE


class DataError(PipelineError):
    """Data breaks its contract: a damaged shard, misaligned keys, a rate above its limit."""


class CheckpointError(DataError):
    """Weights or a checkpoint do not match the manifest or the model that wants them."""


class QualityError(PipelineError):
    """A configured quality gate failed; every output is complete."""

    exit_code = EXIT_QUALITY


class StorageError(PipelineError):
    """A store is full or unreachable; the same command goes on later."""

    exit_code = EXIT_LATER


class BusyError(PipelineError):
    """Another live run holds the output folder, or the machine is too busy to start Ray."""

    exit_code = EXIT_LATER


class StalledError(PipelineError):
    """No task ended for too long; the same command goes on with what is missing."""

    exit_code = EXIT_LATER


class PreemptedError(PipelineError):
    """The job was asked to stop and has, at a checkpoint; the same command goes on later."""

    exit_code = EXIT_LATER
