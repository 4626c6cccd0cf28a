"""The command line that all jobs share: options, exit codes, ``result.json``.

Exit codes: 0 done, 2 usage or configuration, 3 a quality gate failed, 4 partial and resumable,
75 try later.
"""

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.credentials import SUBMISSION, refuse_in_submission
from pipeline.errors import (
    EXIT_OK,
    EXIT_PARTIAL,
    EXIT_USAGE,
    BusyError,
    ConfigError,
    PipelineError,
)

if TYPE_CHECKING:
    from pipeline.run_file import RunFile

RESULT = "result.json"
EPILOG = """exit codes: 0 done, 2 usage or configuration, 3 a quality gate failed,
4 partial (the same command goes on), 75 try later. Everything for people goes to standard error;
standard output ends with one JSON object."""

Choose = Callable[["RunFile", argparse.Namespace], Sequence[str] | None]
Show = Callable[["RunFile", argparse.Namespace], Iterable[dict[str, Any] | str]]
AddOptions = Callable[[argparse.ArgumentParser], None]
Instead = Callable[["RunFile", argparse.Namespace], dict[str, Any] | None]
Override = Callable[[argparse.Namespace], Sequence[str]]


def run_job(
    description: str,
    choose: Choose,
    add_options: AddOptions | None = None,
    arguments: Sequence[str] | None = None,
    instead: Instead | None = None,
    override: Override = lambda options: (),
) -> int:
    """Parse the command line, run the chosen stages of a run file, report; returns the exit code.

    Args:
        description: The job's docstring, shown by ``--help``.
        choose: Run file and options → names of the stages to run, None for all.
        add_options: Adds a job's own options.
        arguments: The command line, ``sys.argv`` by default.
        instead: Other work of the job, where the options ask for it: run file and options → the
            job's last line, or None to run the stages.
        override: Options → what they say as further overrides of the run file.
    """
    parser = _parser(description)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved run, what is done, where outputs go; write nothing",
    )
    if add_options is not None:
        add_options(parser)
    options = parser.parse_args(arguments)

    def work() -> int:
        # The request stays as it was given, so that a refusal of it is known again.
        told = {**vars(options), "set": [*options.set, *override(options)]}
        return _run(argparse.Namespace(**told), choose, instead)

    return _guarded(options, work)


def show_job(
    description: str,
    show: Show,
    add_options: AddOptions,
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the command line and print what a run's folders say; no result of the run changes.

    Args:
        description: The job's docstring, shown by ``--help``.
        show: Run file and options → objects, printed as one line of JSON each, or lines of text.
        add_options: Adds the job's own options.
        arguments: The command line, ``sys.argv`` by default.
    """
    parser = _parser(description)
    add_options(parser)
    options = parser.parse_args(arguments)
    options.dry_run = True
    return _guarded(options, lambda: _print(options, show))


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="YAML run file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=value",
        help="override one key of the run file; may be repeated",
    )
    return parser


def sample_options(parser: argparse.ArgumentParser, name: str, what: str) -> None:
    """The options of jobs that are about some samples."""
    kinds = "key, uid, url, domain, sha256, phash or picture (a file or a folder of pictures)"
    parser.add_argument(
        name,
        dest="samples",
        action="append",
        default=[],
        metavar="KIND=VALUE",
        help=f"{what}, by {kinds}; KIND=@FILE reads one value per line; may be repeated",
    )
    parser.add_argument(
        "--max-hamming",
        type=int,
        default=4,
        metavar="BITS",
        help="bits by which perceptual hashes (phash, picture) may differ (default: 4)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line, not text")


def pilot_options(parser: argparse.ArgumentParser) -> None:
    """The options of jobs that curate: a pilot on a sample, and what it is priced by."""
    parser.add_argument(
        "--sample",
        type=float,
        metavar="SHARE",
        help="pilot: queries and curation on this share of the pictures, in <output_dir>-sample-"
        "<SHARE>, with what the whole run would give, take and cost",
    )
    parser.add_argument(
        "--price-per-cpu-hour", type=float, metavar="PRICE", help="for a pilot's cost; no default"
    )
    parser.add_argument(
        "--price-per-gb", type=float, metavar="PRICE", help="of a stored gigabyte; no default"
    )


def _with_pilot(options: argparse.Namespace) -> None:
    """Turn a pilot's options into overrides of the run file."""
    if "sample" not in options:
        return
    from pipeline.chain import pilot

    options.set = [
        *options.set,
        *pilot.overrides(
            options.config,
            options.set,
            options.sample,
            options.price_per_cpu_hour,
            options.price_per_gb,
        ),
    ]


def _guarded(options: argparse.Namespace, work: Callable[[], int]) -> int:
    """Turn every way to end into an exit code, a message and ``result.json``."""
    from pipeline.runtime import interruptible, prepare_environment

    prepare_environment()
    try:
        with interruptible():
            refuse_in_submission(os.environ)
            _with_pilot(options)
            _stop_if_refused_before(options)
            return work()
    except ConfigError as error:
        _say(f"ConfigError: {error}")
        _record_refusal(options, str(error))
        return EXIT_USAGE
    except PipelineError as error:
        _say(f"{type(error).__name__}: {error}")
        if not isinstance(error, BusyError):
            _record(options, error.exit_code, type(error).__name__, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on where it stopped")
        _record(options, EXIT_PARTIAL, "interrupted", "the same command goes on")
        return EXIT_PARTIAL
    except Exception as error:
        _say(traceback.format_exc())
        _say("unexpected; what is finished stays finished, the same command goes on")
        _record(options, EXIT_PARTIAL, type(error).__name__, str(error))
        return EXIT_PARTIAL


def _print(options: argparse.Namespace, show: Show) -> int:
    from pipeline.config import load_run
    from pipeline.run_file import RunFile

    for found in show(load_run(RunFile, options.config, options.set), options):
        text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
        sys.stdout.write(text + "\n")
    return EXIT_OK


def _run(options: argparse.Namespace, choose: Choose, instead: Instead | None) -> int:
    from pipeline.chain.stages import check_stages
    from pipeline.config import load_run
    from pipeline.run_file import RunFile

    run = load_run(RunFile, options.config, options.set)
    line = None if instead is None else instead(run, options)
    if line is not None:
        _stop_at_failed_gates(line)
        return _done(options, line)
    chosen = choose(run, options)
    check_stages(run, chosen or ())
    if options.dry_run:
        from pipeline.chain.describe import describe_run

        sys.stdout.write(describe_run(run, chosen))
        return EXIT_OK

    from pipeline.chain.headline import failed_gates, headline
    from pipeline.chain.run import run_chain
    from pipeline.progress import Progress

    summary = run_chain(run, Progress(), chosen)
    line = headline(run, summary)
    failed = failed_gates(summary)
    if failed is not None:
        _print_line(line)
        raise failed
    return _done(options, line)


def _stop_at_failed_gates(line: Mapping[str, Any]) -> None:
    """Tell what was measured, then that it does not suffice."""
    if failed := line.get("failed_gates"):
        from pipeline.errors import QualityError

        _print_line(line)
        raise QualityError("; ".join(failed))


def _done(options: argparse.Namespace, line: dict[str, Any]) -> int:
    _print_line(line)
    _record(options, EXIT_OK, "done", "", line)
    return EXIT_OK


def _print_line(line: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(text.rstrip() + "\n")
    sys.stderr.flush()


def submitted() -> bool:
    """Whether this process was started by ``ray job submit``."""
    return SUBMISSION in os.environ


def _raw_request(options: argparse.Namespace) -> dict[str, Any]:
    """Run file and overrides as given, and the output folder they name, if they can be read."""
    from pipeline.config import raw_values

    request = {"text": "", "set": list(options.set), "output_dir": None}
    request |= {name: getattr(options, name, None) for name in ("stage", "from_step", "skip")}
    with contextlib.suppress(OSError, ConfigError):
        request["text"] = Path(options.config).read_text(encoding="utf-8", errors="replace")
        request["output_dir"] = raw_values(options.config, options.set).get("output_dir")
    return request


def _record_refusal(options: argparse.Namespace, message: str) -> None:
    """Under a job submission alone, so that a retrying operator finds the refusal."""
    if not submitted() or options.dry_run:
        return
    from pipeline.identity import fingerprint

    request = fingerprint(_raw_request(options))
    _record(options, EXIT_USAGE, "refused", message, {"request": request})


def _stop_if_refused_before(options: argparse.Namespace) -> None:
    if not submitted():
        return
    from pipeline import storage
    from pipeline.identity import fingerprint

    request = _raw_request(options)
    uri = storage.join(str(request["output_dir"]), RESULT)
    if request["output_dir"] and storage.exists(uri):
        before = storage.read_json(uri)
        if before.get("request") == fingerprint(request):
            raise ConfigError(before["message"])


def _record(
    options: argparse.Namespace,
    exit_code: int,
    status: str,
    message: str,
    more: dict[str, Any] | None = None,
) -> None:
    """Write ``result.json`` beside the outputs; without an output folder there is nowhere to."""
    if options.dry_run:
        return
    from pipeline import storage

    with contextlib.suppress(OSError, PipelineError):
        output_dir = _raw_request(options)["output_dir"]
        if isinstance(output_dir, str) and (storage.exists(output_dir) or submitted()):
            result = {"exit_code": exit_code, "status": status, "message": message, **(more or {})}
            storage.write_json(storage.join(output_dir, RESULT), result)
