"""What configs say about the convolutions of the front end, of which one form is known."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from svc.safe_pickle import printable
from svc.speech.frontend import CONV_KERNELS, CONV_STRIDES

_MAX_TEXT, _MAX_LAYERS = 1000, 32  # bounds on what a config makes us parse and hold


def check_convolutions(config: Mapping[str, Any], key: str) -> None:
    """Check the layers that a config states; one that states none passes.

    Raises ValueError where they are unreadable or not the known ones.
    """
    if config.get(key) is not None:
        layers = parse_convolutions(config[key], key)
        check_kernels([kernel for _, kernel, _ in layers], [stride for *_, stride in layers])


def check_kernels(kernels: Any, strides: Any) -> None:
    """Raise ValueError unless these lists are the kernels and strides of the one front end there
    is.
    """
    found = [tuple(x) if isinstance(x, list | tuple) else (x,) for x in (kernels, strides)]
    if found != [CONV_KERNELS, CONV_STRIDES]:
        raise ValueError(
            f"its front end has kernels {printable(str(found[0]))} and strides"
            f" {printable(str(found[1]))}, and only"
            f" {CONV_KERNELS} with {CONV_STRIDES} (50 frames per second) are known"
        )


def parse_convolutions(value: Any, key: str = "conv_feature_layers") -> list[tuple[int, int, int]]:
    """Read the layers, e.g. ``"[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"``.

    The original evaluates this text, which lets a weight file run code; here lists, tuples and
    whole numbers, joined by + and repeated by *, are all there is.

    Args:
        value: the text, or the list itself.
        key: its name in the config, for messages.

    Returns:
        (channels, kernel, stride) of each layer.

    Raises:
        ValueError: anything else.
    """
    layers = value
    if isinstance(value, str):
        try:
            if len(value) > _MAX_TEXT:
                raise ValueError(f"it is {len(value)} characters long")
            layers = _literal(ast.parse(value.strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(
                f'its config has an unreadable "{key}" {value[:80]!r}: {error}'
            ) from error
    entries = list(layers) if isinstance(layers, list | tuple) else [layers]
    triples = [
        tuple(entry) for entry in entries if isinstance(entry, list | tuple) and len(entry) == 3
    ]
    if len(triples) < len(entries) or any(type(n) is not int for triple in triples for n in triple):
        raise ValueError(
            f'its config has "{key}" {str(value)[:80]!r}, not (channels, kernel, stride) per layer'
        )
    return [(int(a), int(b), int(c)) for a, b, c in triples]


def _literal(node: ast.expr) -> Any:
    """Value of an expression of lists, tuples, whole numbers, + and *."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        items = [_literal(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        left, right = _literal(node.left), _literal(node.right)
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            return left + right
        if isinstance(node.op, ast.Mult):
            items, count = (left, right) if isinstance(left, list) else (right, left)
            if isinstance(items, list) and isinstance(count, int):
                if len(items) * count > _MAX_LAYERS:
                    raise ValueError(f"it repeats to more than {_MAX_LAYERS} layers")
                return items * count
    raise ValueError(f"{ast.unparse(node)[:40]!r} is not a list of numbers")
