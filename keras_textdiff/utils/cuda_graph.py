"""On torch on a GPU, a recorded function becomes one launch instead of hundreds."""

import threading

from keras import tree

MOST_BYTES = 2**30  # of inputs and outputs that the graphs of a function keep


def on_one_gpu(tensors):
    """Return whether all tensors of torch are on the GPU that kernels are launched on."""
    import torch

    if not tensors or any(tensor.device.type != "cuda" for tensor in tensors):
        return False
    return {tensor.device.index for tensor in tensors} == {torch.cuda.current_device()}


class CudaGraphs:
    """Makes graphs that share their memory, and so run one after the other."""

    def __init__(self):
        self.bytes_left = MOST_BYTES
        self.pool = None
        self.lock = threading.Lock()

    def make(self, function, arguments):
        """Return a `CudaGraph` of these shapes, or `function` where there can be none.

        That is where it waits for numbers on the GPU, or where its inputs and outputs take more
        memory than is left: so large, its kernels take longer than launching them.

        Args:
            function: callable of torch tensors on one GPU, nests of them to a nest of them; it
                may read other tensors, where these are now.
            arguments: nests of tensors, kept: later inputs are copied to where they lie.
        """
        import torch

        if self.bytes_left <= 0:
            return function
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose their kernels outside of a capture
            outputs = function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        num_bytes = sum(tensor.nbytes for tensor in tree.flatten((arguments, outputs)))
        if num_bytes > self.bytes_left:
            return function
        del outputs
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        try:
            graph = CudaGraph(function, arguments, self.pool, self.lock)
        except RuntimeError:  # as others of it would, and memory of the pool is in doubt
            self.bytes_left = 0
            return function
        self.bytes_left -= num_bytes
        return graph


class CudaGraph:
    """A function of tensors whose kernels are launched together.

    Args:
        function: see `CudaGraphs.make`.
        arguments: see there.
        pool: `torch.cuda.graph_pool_handle()`.
        lock: `threading.Lock` of all graphs of the pool.
    """

    def __init__(self, function, arguments, pool, lock):
        import torch

        self.function = function  # whose constants are read where they lie
        self.inputs = tree.flatten(arguments)
        self.lock = lock
        self.graph = torch.cuda.CUDAGraph()
        # A capture that fails leaves its stream as the current one.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"),
        ):
            self.outputs = function(*arguments)
        self.done = torch.cuda.Event()

    def __call__(self, *arguments):
        """Return what the function does, in tensors of their own."""
        import torch

        with self.lock:
            torch.cuda.current_stream().wait_event(self.done)  # another thread's may be another
            torch._foreach_copy_(self.inputs, tree.flatten(arguments))
            self.graph.replay()
            # The next replay writes where these lie.
            outputs = tree.map_structure(torch.clone, self.outputs)
            self.done.record()
        return outputs
