"""On torch on a GPU, a recorded function becomes one launch instead of hundreds."""

from keras import tree


def on_one_gpu(tensors):
    """Return whether all tensors of torch are on the GPU that kernels are launched on."""
    import torch

    if not tensors or any(tensor.device.type != "cuda" for tensor in tensors):
        return False
    return {tensor.device.index for tensor in tensors} == {torch.cuda.current_device()}


class CudaGraph:
    """A function of tensors whose kernels are launched together, on the inputs' shapes at first.

    Args:
        function: callable of torch tensors on one GPU, which waits for none of their numbers; it
            may read other tensors, where these were.
        arguments: nests of tensors, kept: inputs are copied to where they lie.
        pool: `torch.cuda.graph_pool_handle()`. Graphs that share it never run at the same time.
    """

    def __init__(self, function, arguments, pool):
        import torch

        self.function = function  # whose constants are read where they lie
        self.inputs = tree.flatten(arguments)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose their kernels outside of a capture
            function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.outputs = function(*arguments)

    def __call__(self, *arguments):
        """Return what the function does, in tensors of their own."""
        import torch

        torch._foreach_copy_(self.inputs, tree.flatten(arguments))
        self.graph.replay()
        # The next replay writes where these lie.
        return tree.map_structure(torch.clone, self.outputs)
