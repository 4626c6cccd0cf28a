"""A finished run's models as a service, until somebody ends it."""

import socket
import threading

from pipeline.chain.export import models_uri
from pipeline.errors import ConfigError
from pipeline.models.config import ClipConfig
from pipeline.progress import Progress
from pipeline.run_file import RunFile
from pipeline.serving.config import ServeConfig


def serve_run(run: RunFile, model: str | None, progress: Progress) -> None:
    """Serve a stack with Ray Serve; returns after Ctrl-C.

    Args:
        run: The run file; its section ``serving`` says how.
        model: Another run's output folder or a registered model (``models_uri``); None: this run.
        progress: Where to tell people the address.

    Raises:
        ConfigError: There is no such model, the port is taken, or the cluster is too small.
        CheckpointError: The models do not belong together.
    """
    config = run.serving or ServeConfig()
    uri = models_uri(run, model)
    _check(config, uri)
    from pipeline.runtime import ray_session, require_cpus

    with ray_session(run.execution.ray):
        require_cpus(config.num_replicas + 1, "serving.num_replicas beside the proxy")
        require_cpus(config.num_replicas * config.gpus_per_replica, "serving", "GPU")
        from ray import serve

        from pipeline.serving.app import start

        try:
            start(config, uri)
            progress.say(f"http://{config.host}:{config.port}/ answers; Ctrl-C ends it")
            threading.Event().wait()
        except KeyboardInterrupt:
            progress.say("ending; what is being drawn is finished first")
        finally:
            serve.shutdown()


def _check(config: ServeConfig, uri: str) -> None:
    """Refuse before anything is started what would fail later."""
    from pipeline.generation.run_stages import RunStages, read_sampling
    from pipeline.generation.safety import picture_rules
    from pipeline.generation.weights import check_stack

    clip = check_stack(RunStages.read(uri)).clip
    picture_rules(config.safety, clip.model(ClipConfig), clip.sha256)
    read_sampling(uri)
    try:
        socket.create_server((config.host, config.port)).close()
    except OSError as error:
        raise ConfigError(
            f"serving: {config.host}:{config.port} cannot be listened on ({error}); choose another "
            "with --set serving.port=..."
        ) from error
