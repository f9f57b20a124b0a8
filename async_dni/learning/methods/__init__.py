"""Methods, one file each; a new one is a file and a line here. `method.py` says what a method is."""

from ...foundation.registry import Registry
from .backprop import BACKPROP
from .cdni import CDNI
from .delayed import DELAYED
from .dni import DNI
from .local import LOCAL
from .method import Loss, Method, MethodParts, MethodSpec

__all__ = ["METHODS", "Loss", "Method", "MethodParts", "MethodSpec"]

METHODS = Registry(MethodSpec, "method", "async_dni.methods", [CDNI, DNI, DELAYED, BACKPROP, LOCAL])
