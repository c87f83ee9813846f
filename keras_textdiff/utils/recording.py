"""What a recording knows that single operations do not: torch's products on CPU made faster.

oneDNN brings a weight into its own layout at every product; a recording keeps it there. And the
largest result of a call, its logits, is hundreds of megabytes that the system hands out page by
page; a recording writes them where the last ones were, once these are no longer in use.
"""

import dataclasses
import operator
from collections.abc import Callable

LARGEST_PACKED = 2**30  # bytes of weights that a function's recordings keep a second time
SMALLEST_REUSED, LARGEST_REUSED = 2**23, 2**28  # bytes of a result


class PackedWeights:
    """Weights in the layout of oneDNN's products, shared by all recordings of a function."""

    def __init__(self):
        self._weights = {}
        self._num_bytes = 0

    def get(self, key, evaluate, num_rows):
        """Return the `_PackedWeight` of a key, made at its first call; None where it is too large.

        Args:
            key: hashable, what the weight is computed of, and how.
            evaluate: callable that computes it from what it is computed of.
            num_rows: int, rows that it is multiplied with.
        """
        if key not in self._weights:
            weight = _PackedWeight(evaluate, num_rows)
            if self._num_bytes + weight.num_bytes > LARGEST_PACKED:
                return None
            self._num_bytes += weight.num_bytes
            self._weights[key] = weight
        return self._weights[key]

    def refresh(self):
        """Pack all weights anew, whose numbers have changed."""
        for weight in self._weights.values():
            weight.pack()


class _PackedWeight:
    def __init__(self, evaluate, num_rows):
        self.evaluate = evaluate
        self.num_rows = num_rows
        self.pack()

    def pack(self):
        import torch

        with torch.no_grad():
            weight = self.evaluate().detach().contiguous()
            self.num_bytes = weight.nbytes
            self.tensor = torch.ops.mkldnn._reorder_linear_weight(weight, self.num_rows)

    def product(self, rows, *others):
        import torch

        return torch.ops.mkldnn._linear_pointwise(rows, self.tensor, *others)


class _ReusedResult:
    """A product whose result lies where the last one was."""

    def __init__(self):
        self.tensor = None

    def product(self, rows, matrix):
        import torch

        shape = (rows.shape[0], matrix.shape[1])
        tensor, self.tensor = self.tensor, None  # another thread finds none meanwhile
        if tensor is None or tensor.shape != shape or _is_in_use(tensor):
            tensor = torch.empty(shape, dtype=rows.dtype)
        result = torch.mm(rows, matrix, out=tensor).view(shape)
        self.tensor = tensor
        return result


def _is_in_use(tensor):
    """Return whether another tensor looks at the same numbers."""
    import torch

    # One for the tensor, one for the storage that is asked.
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata) > 2


def improve(graph_module, packed):
    """Replace products of a recording by faster ones that compute the same.

    Args:
        graph_module: `torch.fx.GraphModule`, recorded on the machine that it will run on.
        packed: `PackedWeights`.
    """
    import torch

    graph = graph_module.graph
    constants = _constants(graph_module)
    for number, node in enumerate(list(graph.nodes)):
        if node.target is not torch.ops.mkldnn._linear_pointwise.default:
            continue
        rows, weight, *others = node.args
        result = node.meta["val"]
        if _is_result(node) and others[0] is None and _can_be_reused(result):
            with graph.inserting_before(node):
                matrix = graph.call_function(torch.ops.aten.t.default, (weight,))
            product, arguments = _ReusedResult(), (rows, matrix)
        elif weight in constants:
            key, evaluate = constants[weight]
            product = packed.get(key, evaluate, result.shape[0])
            arguments = (rows, *others)
        else:
            product = None
        if product is not None:
            name = f"product_{number}"
            setattr(graph_module, name, product)
            with graph.inserting_before(node):
                holder = graph.create_node("get_attr", name)
                replacement = graph.call_method("product", (holder, *arguments))
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph_module.recompile()


def _can_be_reused(result):
    import torch

    # Only bfloat16 products with a given place for their result are oneDNN's.
    return result.dtype == torch.bfloat16 and SMALLEST_REUSED <= result.nbytes <= LARGEST_REUSED


def _is_result(node):
    """Return whether a node is what the graph returns, up to its shape."""
    import torch

    views = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
    users = list(node.users)
    if len(users) != 1:
        return False
    return users[0].op == "output" or (users[0].target in views and _is_result(users[0]))


def _constants(graph_module):
    """Return pairs of a key and a function that computes it, by node that no argument goes into.

    Random operations do not occur: the noise of a sampler is an argument.
    """
    found = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            value = operator.attrgetter(node.target)(graph_module)
            found[node] = (id(value), lambda value=value: value)
        elif node.op == "call_function":
            sources = node.all_input_nodes
            if sources and all(source in found for source in sources):
                found[node] = _computed(node, found)
    return found


def _computed(node, found):
    from torch.fx.node import map_aggregate, map_arg

    arguments = node.args, node.kwargs
    key = repr((node.target, map_arg(arguments, lambda source: found[source][0])))
    # The graph changes later: functions take the place of its nodes now.
    arguments = map_arg(arguments, lambda source: _Deferred(found[source][1]))
    target = node.target

    def evaluate():
        args, kwargs = map_aggregate(
            arguments, lambda x: x.evaluate() if isinstance(x, _Deferred) else x
        )
        return target(*args, **kwargs)

    return key, evaluate


@dataclasses.dataclass(frozen=True)
class _Deferred:
    evaluate: Callable
