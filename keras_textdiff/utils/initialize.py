"""Processes that find each other."""

import os

import keras

from keras_textdiff.utils.checks import check_integer
from keras_textdiff.utils.processes import process_index_and_count

_MORE = "Pass all of `coordinator_address`, `num_processes` and `process_id`, or none of them"


def initialize(coordinator_address=None, num_processes=None, process_id=None):
    """Join the processes of a run, each with devices of its own: on jax and torch.

    Call it in each process, before anything else that uses the backend. Without arguments, what
    started the processes says who they are: on jax, TPU pods, SLURM, Open MPI and Kubernetes as
    `jax.distributed.initialize` knows them, or the environment variables
    KERAS_DISTRIBUTION_JOB_ADDRESSES, KERAS_DISTRIBUTION_NUM_PROCESSES and
    KERAS_DISTRIBUTION_PROCESS_ID; on torch, the environment that `torchrun` sets.

    On jax, `layout_map` then lays a model out over the devices of all processes. On torch, each
    process trains a copy of the model on its part of every batch, and gradients are averaged
    (NCCL where each has a GPU, gloo elsewhere); there is nothing else to set.

    Args:
        coordinator_address: str, "host:port" of the first process, or None.
        num_processes: int, or None.
        process_id: int from 0 on, or None.

    Returns:
        `(process_id, num_processes)`, as found.

    Raises:
        ValueError: on tensorflow, where `tf.distribute.MirroredStrategy` trains on the devices of
            one machine; or for arguments that are incomplete or out of range.

    Example:
    ```python
    keras_textdiff.distribution.initialize("10.0.0.1:1234", num_processes=2, process_id=0)
    ```
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        raise ValueError(
            "On tensorflow, one process trains: make the model in the scope of a "
            "`tf.distribute.MirroredStrategy` to use several devices of one machine. Set "
            "KERAS_BACKEND=jax (or torch) for several processes."
        )
    given = (coordinator_address, num_processes, process_id)
    if any(value is not None for value in given):
        if None in given:
            raise ValueError(f"{_MORE}. Got {given}.")
        check_integer("num_processes", num_processes, minimum=1)
        check_integer("process_id", process_id, minimum=0, maximum=num_processes - 1)
        if not isinstance(coordinator_address, str) or ":" not in coordinator_address:
            raise ValueError(
                '`coordinator_address` is "host:port" of the first process. Got '
                f"{coordinator_address!r}."
            )
    (_initialize_jax if backend == "jax" else _initialize_torch)(*given)
    return process_index_and_count()


def _initialize_jax(coordinator_address, num_processes, process_id):
    import jax

    # On CPU, programs that run at the same time would mix up what they send each other.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    keras.distribution.initialize(coordinator_address, num_processes, process_id)


def _initialize_torch(coordinator_address, num_processes, process_id):
    import torch

    if coordinator_address is None:
        missing = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} - set(os.environ)
        if missing:
            raise ValueError(
                f"The environment lacks {sorted(missing)}. Start the processes with `torchrun`, "
                f"or: {_MORE.lower()}."
            )
        options = {}
    else:
        options = {
            "init_method": f"tcp://{coordinator_address}",
            "world_size": num_processes,
            "rank": process_id,
        }
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", **options)
